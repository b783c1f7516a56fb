"""big_vision's SigLIP files: the same weights in big_vision's layout and in transformers' give the same outputs."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jvlm import models
from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.core.tree import flatten
from jvlm.interop import big_vision
from jvlm.interop.table import variables_flat, variables_nested
from tests.interop import directories
from tests.interop.hf_cases import tower
from tests.interop.hf_runs import dual_ours, dual_reference
from tests.models_util import inputs
from tests.reference import torch, transformers

Arrays = dict[str, np.ndarray]


def dense(rng: np.random.Generator, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> dict[str, np.ndarray]:
    kernel = rng.normal(size=(*shape_in, *shape_out)) * 0.2
    return dict(kernel=kernel.astype(np.float32), bias=rng.normal(size=shape_out).astype(np.float32) * 0.1)


def norm(rng: np.random.Generator, width: int) -> dict[str, np.ndarray]:
    scale, bias = 1 + rng.normal(size=(2, width)).astype(np.float32) * 0.1
    return dict(scale=scale, bias=bias)


def half(rng: np.random.Generator, width: int, heads: int, mlp: int) -> dict[str, Any]:
    """What a block and a MAPHead share, with the axes that flax gives to multi-head attention."""
    split = (heads, width // heads)
    attention = {part: dense(rng, (width,), split) for part in ("query", "key", "value")}
    return {
        "MultiHeadDotProductAttention_0": {**attention, "out": dense(rng, split, (width,))},
        "LayerNorm_0": norm(rng, width),
        "MlpBlock_0": {"Dense_0": dense(rng, (width,), (mlp,)), "Dense_1": dense(rng, (mlp,), (width,))},
    }


def encoder(rng: np.random.Generator, width: int, heads: int, mlp: int, depth: int) -> dict[str, Any]:
    blocks = {
        f"encoderblock_{k}": {**half(rng, width, heads, mlp), "LayerNorm_1": norm(rng, width)} for k in range(depth)
    }
    return {**blocks, "encoder_norm": norm(rng, width)}


def checkpoint(seed: int = 0) -> Arrays:
    """A SigLIP in big_vision's layout: image 15 wide, 3 heads, 2x2 patches of 5; text 21 wide, 3 heads, 7 tokens."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32) * 0.2

    image = dict(
        embedding=dense(rng, (5, 5, 3), (15,)),
        pos_embedding=normal(1, 4, 15),
        Transformer=encoder(rng, 15, 3, 17, depth=3),
        MAPHead_0=dict(half(rng, 15, 3, 17), probe=normal(1, 1, 15)),
    )
    text = dict(
        Embed_0=dict(embedding=normal(60, 21)),
        pos_embedding=normal(1, 7, 21),
        Encoder_0=encoder(rng, 21, 3, 10, depth=2),
        head=dense(rng, (21,), (15,)),
    )
    return flatten({"params": dict(img=image, txt=text, t=normal(1), b=normal(1))})


def scanned(arrays: Arrays) -> Arrays:
    """The same, the layers of each encoder stacked as big_vision's scan stores them."""
    out: Arrays = {}
    for name, array in arrays.items():
        if "encoderblock_0" in name:
            layers = [name.replace("encoderblock_0", f"encoderblock_{k}") for k in range(3)]
            out[name.replace("encoderblock_0", "encoderblock")] = np.stack([arrays[x] for x in layers if x in arrays])
        elif "encoderblock_" not in name:
            out[name] = array
    return out


def as_transformers(arrays: Arrays) -> Any:
    """SiglipModel with the same weights, by the correspondence that transformers' own conversion documents."""
    state: dict[str, np.ndarray] = {}
    parts = dict(query="q_proj", key="k_proj", value="v_proj", out="out_proj")
    rest = dict(LayerNorm_0="layer_norm1", LayerNorm_1="layer_norm2")

    def put(theirs: str, ours: str) -> None:
        bias = "params/" + ours + "/bias"
        if ours.rsplit("/", 1)[-1].startswith(("LayerNorm", "encoder_norm")):
            state[f"{theirs}.weight"] = arrays[f"params/{ours}/scale"]
        else:
            kernel = arrays[f"params/{ours}/kernel"]
            # Everything before the bias's axes is contracted.
            state[f"{theirs}.weight"] = kernel.reshape(-1, arrays[bias].size).T
        state[f"{theirs}.bias"] = arrays[bias].reshape(-1)

    def encoder(theirs: str, ours: str, depth: int) -> None:
        for k in range(depth):
            block, layer = f"{ours}/encoderblock_{k}", f"{theirs}.encoder.layers.{k}"
            for part, name in parts.items():
                put(f"{layer}.self_attn.{name}", f"{block}/MultiHeadDotProductAttention_0/{part}")
            for part, name in rest.items():
                put(f"{layer}.{name}", f"{block}/{part}")
            for at in range(2):
                put(f"{layer}.mlp.fc{at + 1}", f"{block}/MlpBlock_0/Dense_{at}")

    encoder("vision_model", "img/Transformer", 3)
    encoder("text_model", "txt/Encoder_0", 2)
    put("vision_model.post_layernorm", "img/Transformer/encoder_norm")
    put("text_model.final_layer_norm", "txt/Encoder_0/encoder_norm")
    put("text_model.head", "txt/head")
    head = "img/MAPHead_0"
    qkv = [f"params/{head}/MultiHeadDotProductAttention_0/{part}" for part in ("query", "key", "value")]
    attention = "vision_model.head.attention"
    state[f"{attention}.in_proj_weight"] = np.concatenate([arrays[f"{x}/kernel"].reshape(15, 15).T for x in qkv])
    state[f"{attention}.in_proj_bias"] = np.concatenate([arrays[f"{x}/bias"].reshape(15) for x in qkv])
    put(f"{attention}.out_proj", f"{head}/MultiHeadDotProductAttention_0/out")
    put("vision_model.head.layernorm", f"{head}/LayerNorm_0")
    for at in range(2):
        put(f"vision_model.head.mlp.fc{at + 1}", f"{head}/MlpBlock_0/Dense_{at}")
    state["vision_model.head.probe"] = arrays[f"params/{head}/probe"]
    embeddings = "vision_model.embeddings"
    state[f"{embeddings}.patch_embedding.weight"] = arrays["params/img/embedding/kernel"].transpose(3, 2, 0, 1)
    state[f"{embeddings}.patch_embedding.bias"] = arrays["params/img/embedding/bias"]
    state[f"{embeddings}.position_embedding.weight"] = arrays["params/img/pos_embedding"][0]
    state["text_model.embeddings.token_embedding.weight"] = arrays["params/txt/Embed_0/embedding"]
    state["text_model.embeddings.position_embedding.weight"] = arrays["params/txt/pos_embedding"][0]
    state["logit_scale"], state["logit_bias"] = arrays["params/t"], arrays["params/b"]
    text = tower(hidden_size=21, num_attention_heads=3, intermediate_size=10, vocab_size=60, projection_size=15)
    vision = tower(hidden_size=15, num_attention_heads=3, intermediate_size=17, num_hidden_layers=3)
    config = transformers.SiglipConfig(
        text_config=dict(text, max_position_embeddings=7), vision_config=dict(vision, image_size=10, patch_size=5)
    )
    model = transformers.SiglipModel(config)
    model.load_state_dict({name: torch.from_numpy(np.array(x, order="C")) for name, x in state.items()}, strict=False)
    missing = {name for name in model.state_dict() if not name.endswith("position_ids")} - state.keys()
    assert not missing
    return model.eval()


def load(path: Path) -> tuple[Any, dict[str, Any]]:
    reader = big_vision.NpzReader(path)
    table = big_vision.TABLE
    model = models.create({"family": table.family, **table.fields(big_vision.shapes(reader))})
    flat = mapping.load(table.rules(model), directories.shapes(model), reader, ignore=table.ignore)
    return model, variables_nested(flat)


def written(path: Path, arrays: Arrays) -> Path:
    save: Any = np.savez  # whose stub takes the arrays for its flag
    save(path, **arrays)
    return path


def test_outputs_equal_the_same_weights_in_transformers(tmp_path: Path) -> None:
    arrays = checkpoint()
    model, variables = load(written(tmp_path / "siglip.npz", arrays))
    given = inputs(model)
    expected = dual_reference(as_transformers(arrays), given)
    directories.assert_near(dual_ours(model, variables, given), expected)


def test_scanned_and_unrolled_files_are_the_same_model(tmp_path: Path) -> None:
    arrays = checkpoint()
    model, variables = load(written(tmp_path / "unrolled.npz", arrays))
    again, read = load(written(tmp_path / "scanned.npz", scanned(arrays)))
    assert again == model
    directories.assert_same_bits(read, variables)


def test_names_without_the_prefix_and_optimizer_state_are_read(tmp_path: Path) -> None:
    arrays = checkpoint()
    plain = {name.removeprefix("params/"): x for name, x in arrays.items()} | {"opt/0/count": np.zeros(())}
    variables = load(written(tmp_path / "plain.npz", plain))[1]
    directories.assert_same_bits(variables, load(written(tmp_path / "siglip.npz", arrays))[1])


def test_bfloat16_is_recovered_from_its_bytes(tmp_path: Path) -> None:
    arrays = {name: np.asarray(jnp.asarray(x, jnp.bfloat16)) for name, x in checkpoint().items()}
    _, variables = load(written(tmp_path / "siglip.npz", arrays))
    assert variables_flat(variables)["logit_scale"].dtype == jnp.bfloat16
    wide = load(written(tmp_path / "wide.npz", {name: x.astype(np.float32) for name, x in arrays.items()}))[1]
    directories.assert_same_bits(directories.cast(variables, "float32"), wide)


def test_what_is_written_back_is_what_was_read(tmp_path: Path) -> None:
    arrays = checkpoint()
    model, variables = load(written(tmp_path / "siglip.npz", arrays))
    back = dict(mapping.save(big_vision.rules(model), variables_flat(variables)))
    assert {f"params/{name}" for name in back} == arrays.keys()
    assert all((back[name.removeprefix("params/")] == x).all() for name, x in arrays.items())


def test_a_checkpoint_without_a_bias_has_no_bias(tmp_path: Path) -> None:
    arrays = checkpoint()
    del arrays["params/b"]
    model, variables = load(written(tmp_path / "siglip.npz", arrays))
    assert model.bias_init is None
    assert "logit_bias" not in variables["params"]


@pytest.mark.parametrize("name", ["params/img/MAPHead_0/probe", "params/txt/head/kernel", "params/img/embedding/bias"])
def test_a_missing_array_is_named(name: str, tmp_path: Path) -> None:
    arrays = checkpoint()
    del arrays[name]
    with pytest.raises(UserError, match=name.removeprefix("params/")):
        load(written(tmp_path / "siglip.npz", arrays))


def test_an_array_too_many_is_named(tmp_path: Path) -> None:
    arrays = checkpoint() | {"params/img/head/kernel": np.zeros((15, 15), np.float32)}
    with pytest.raises(UserError, match="img/head/kernel"):
        load(written(tmp_path / "siglip.npz", arrays))


def test_truncated_and_pickled_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "siglip.npz", checkpoint())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"siglip\.npz"):
        load(path)
    arrays = checkpoint() | {"params/t": np.array([{}], dtype=object)}
    with pytest.raises(UserError, match=r"params/t\.npy is pickled"):
        load(written(tmp_path / "pickled.npz", arrays))
