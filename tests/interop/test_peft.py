"""PEFT directories on every transformers format: what peft trains, we compute; what we write, peft opens."""

import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.core.tree import flatten, map_paths
from jvlm.interop import peft, peft_write
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import materialized
from jvlm.transforms.adapters import activate, attach
from jvlm.transforms.freeze import combine, partition
from jvlm.transforms.lora import Lora
from jvlm.transforms.methods import make_method
from tests.interop import directories
from tests.interop.decoder_cases import DECODERS
from tests.interop.hf_cases import CASES as OTHERS
from tests.interop.peft_bases import Base, adapted, opened, saved, tensors
from tests.reference import torch
from tests.reference_peft import peft as reference_peft

CASES = OTHERS | DECODERS
FIRST = {case.table: name for name, case in reversed(CASES.items())}
KINDS: dict[str, dict[str, Any]] = {
    "lora": dict(),
    "rslora": dict(use_rslora=True),
    "dora": dict(use_dora=True),
    "ia3": dict(),
}


@pytest.fixture(scope="module", params=FIRST)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return opened(CASES[FIRST[request.param]], tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return opened(CASES[FIRST["clip"]], tmp_path_factory.mktemp("clip"))


def config_of(kind: str, modules: list[str], reference: Any, **fields: Any) -> Any:
    """Adapters on every module that can have one; ranks, alphas of their own for some, and one left out."""
    tables = {name for name, m in reference.named_modules() if isinstance(m, torch.nn.Embedding)}
    if reference.config.model_type not in ("align", "clip", "siglip", "siglip2", "vit"):
        modules = [name for name in modules if name not in tables]  # may be tied to the head
    if kind == "ia3":
        modules = [name for name in modules if name not in tables]
        inputs = [name for name in modules if name.endswith(("fc2", "output.dense", "down_proj"))]
        return reference_peft.IA3Config(target_modules=modules, feedforward_modules=inputs, **fields)
    settings = dict(r=3, lora_alpha=5, rank_pattern={modules[0]: 2}, alpha_pattern={modules[-1]: 7})
    return reference_peft.LoraConfig(target_modules=modules[:-2] + modules[-1:], **settings, **KINDS[kind], **fields)


def run(base: Base, ours: Pretrained) -> dict[str, np.ndarray]:
    given = base.case.inputs(ours.model)
    return base.case.ours(ours.model, {"params": ours.params, **ours.state}, given)


def expected(base: Base, model: Any) -> dict[str, np.ndarray]:
    return base.case.reference(model, base.case.inputs(base.ours.model))


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_directory_of_peft_opens_here_and_ours_opens_in_peft(base: Base, kind: str, tmp_path: Path) -> None:
    check_both_ways(base, kind, tmp_path)


@pytest.mark.parametrize("kind", ["rslora", "dora"])
@pytest.mark.parametrize("table", ["align", "clip"])
def test_its_kin_open_both_ways(table: str, kind: str, tmp_path: Path) -> None:
    check_both_ways(opened(CASES[FIRST[table]], tmp_path / "base"), kind, tmp_path)


def check_both_ways(base: Base, kind: str, tmp_path: Path) -> None:
    model = adapted(base, config_of(kind, base.modules, base.reference))
    theirs = saved(model, tmp_path / "theirs")
    ours = peft.load(theirs, base.ours)
    wanted = expected(base, model)
    directories.assert_near(run(base, ours), wanted)
    plain = expected(base, base.reference)
    assert max(np.abs(plain[name] - wanted[name]).max() for name in wanted) > 1e-3
    peft_write.save(ours, tmp_path / "ours")
    before, after = (tensors(tmp_path / name) for name in ("theirs", "ours"))
    before = {name: x for name, x in before.items() if ".base_layer." not in name}  # copies of the base's
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert (array.shape, array.tobytes()) == (after[name].shape, after[name].tobytes()), name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", UserWarning)  # peft's way to say that keys are missing
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # it sets what GPT-2's layers need
        again = reference_peft.PeftModel.from_pretrained(copy.deepcopy(base.reference), tmp_path / "ours").eval()
    directories.assert_near(expected(base, again), wanted, 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {name: x.numpy() for name, x in model.merge_and_unload().state_dict().items()}
    for name, array in mapping.save(base.table.rules(ours.model), materialized(ours)):
        if name in state and array.dtype == np.float32:
            np.testing.assert_allclose(array, state[name], atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", ["clip", "siglip", "bert", "vit"])
def test_gradients_of_the_adapter_equal_peft(table: str, kind: str, tmp_path: Path) -> None:
    name = "vit classifier" if table == "vit" else FIRST[table]
    base = opened(CASES[name], tmp_path / "base")
    model = adapted(base, config_of(kind, base.modules, base.reference))
    ours = peft.load(saved(model, tmp_path / "theirs"), base.ours)
    given = base.case.inputs(ours.model)
    arrays = {name: jnp.asarray(x) for name, x in given.items()}
    inputs = {"input_ids": torch.from_numpy(given["tokens"]).long()} if "tokens" in given else {}
    if "image" in given:
        inputs["pixel_values"] = torch.from_numpy(given["image"].transpose(0, 3, 1, 2).copy())
    if table == "bert":
        inputs["attention_mask"] = torch.from_numpy(given["tokens"] != 0).long()
    out = model(**inputs)
    output = {"vit": "logits", "bert": "pooler_output"}.get(table, "logits_per_image")
    torch.sin(out[output]).sum().backward()
    trained, frozen = partition(
        ours.params, [p for p, leaf in flatten(ours.params).items() if not hasattr(leaf, "base")]
    )

    def objective(trained: Any) -> jax.Array:
        out: Any = ours.model.apply({"params": combine(trained, frozen)}, **arrays)
        if output == "logits_per_image":
            logits = out.scale * out.zimg @ out.ztxt.T + (0.0 if out.bias is None else out.bias)
            return jnp.sin(logits).sum()
        return jnp.sin(out.logits if output == "logits" else out.pooled).sum()

    grads = jax.jit(jax.grad(objective))(trained)
    # Written as a directory, the gradients have peft's names and layouts; what a leaf holds besides is as it was.
    peft_write.save(replace(ours, params=combine(grads, frozen)), tmp_path / "grads")
    written = tensors(tmp_path / "grads")
    wanted = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    renamed = {n.replace(".default.weight", ".weight").replace(".default", ""): x for n, x in wanted.items()}
    renamed = {n.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): x for n, x in renamed.items()}
    assert renamed.keys() == written.keys()
    for name, gradient in renamed.items():
        scale = max(1.0, np.abs(gradient).max())
        np.testing.assert_allclose(written[name], gradient, atol=1e-5 * scale, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "fields",
    [
        dict(bias="all"),
        dict(bias="lora_only"),
        dict(modules_to_save=["visual_projection"]),
        dict(layers_to_transform=[1], target_modules=["q_proj", "fc1"]),
        dict(fan_in_fan_out=True),
    ],
)
def test_settings_of_peft_are_honoured(clip: Base, fields: dict[str, Any], tmp_path: Path) -> None:
    settings = dict(r=2, target_modules=["q_proj"]) | fields
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that fan_in_fan_out is not for nn.Linear
        model = adapted(clip, reference_peft.LoraConfig(**settings))
    ours = peft.load(saved(model, tmp_path / "theirs"), clip.ours)
    directories.assert_near(run(clip, ours), expected(clip, model))
    peft_write.save(ours, tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = reference_peft.PeftModel.from_pretrained(copy.deepcopy(clip.reference), tmp_path / "ours").eval()
    directories.assert_near(expected(clip, again), expected(clip, model), 1e-6)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (dict(peft_type="LOHA"), "peft_type 'LOHA' is not implemented"),
        (dict(lora_bias=True), "lora_bias = True is not implemented"),
        (dict(target_parameters=["x"]), "target_parameters"),
        (dict(layer_replication=[[0, 1]]), "layer_replication"),
        (dict(trainable_token_indices=[3]), "trainable_token_indices"),
        (dict(something_new=1), "something_new = 1"),
        (dict(init_lora_weights="pissa"), "'pissa' changes the base"),
        (dict(r=9), "the rank is 2, but the settings say 9"),
        (dict(use_dora=True), "lora_magnitude_vector is missing"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    clip: Base, edit: dict[str, Any], named: str, tmp_path: Path
) -> None:
    saved(adapted(clip, reference_peft.LoraConfig(r=2, target_modules=["q_proj"])), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(UserError, match=named):
        peft.load(tmp_path, clip.ours)


def tensors_without_a_place(directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    yield from tensors(directory).items()
    yield "base_model.model.text_model.nothing.weight", np.zeros(3, np.float32)


def test_a_tensor_without_a_place_is_refused(clip: Base, tmp_path: Path) -> None:
    from jvlm.interop import safetensors

    saved(adapted(clip, reference_peft.LoraConfig(r=2, target_modules=["q_proj"])), tmp_path)
    safetensors.write(tmp_path, list(tensors_without_a_place(tmp_path)), peft.WEIGHTS)
    with pytest.raises(UserError, match=r"text_model.nothing.weight has no place in the model"):
        peft.load(tmp_path, clip.ours)


@pytest.mark.parametrize(
    ("fields", "table", "named"),
    [
        (dict(kind="bottleneck"), "clip", "PEFT has no form for Bottleneck"),
        (dict(kind="lora", targets=["*map_head/attn/query/kernel"]), "siglip", "holds 3 kernels in one tensor"),
        (dict(kind="lora", targets=["*map_head/attn/out/kernel"]), "siglip", "past any adapter"),
        (dict(kind="lora", targets=["*depthwise/kernel"]), "align", "a convolution in groups"),
        (dict(kind="ia3", targets=["*patches/proj/kernel"], feedforward=["*"]), "clip", "not gains of channels"),
        (dict(kind="ia3", targets=["*token_embed/embedding"]), "clip", "PEFT has no IA3"),
    ],
)
def test_what_peft_has_no_form_for_is_refused(fields: dict[str, Any], table: str, named: str, tmp_path: Path) -> None:
    base = opened(CASES[FIRST[table]], tmp_path / "base")
    params = attach(base.ours.params, make_method(fields), jax.random.key(0))
    with pytest.raises(UserError, match=named):
        peft_write.save(replace(base.ours, params=params), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weighted_or_a_second_adapter_is_refused(clip: Base, tmp_path: Path) -> None:
    one = attach(clip.ours.params, make_method(dict(kind="lora", name="one")), jax.random.key(0))
    with pytest.raises(UserError, match="another weight than 1"):
        peft_write.save(replace(clip.ours, params=activate(one, {"one": 0.5})), tmp_path / "out")
    two = attach(one, make_method(dict(kind="lora", name="two")), jax.random.key(0))
    with pytest.raises(UserError, match="PEFT has no form for adapters"):
        peft_write.save(replace(clip.ours, params=two), tmp_path / "out")


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_of_a_fused_module_is_one_of_each_of_its_kernels(kind: str, tmp_path: Path) -> None:
    base = opened(CASES[FIRST["gpt2"]], tmp_path / "base")
    config = reference_peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **KINDS[kind])
    model = adapted(base, config)
    ours = peft.load(saved(model, tmp_path / "theirs"), base.ours)
    leaves = {path for path, leaf in flatten(ours.params).items() if hasattr(leaf, "base")}
    assert leaves == {f"blocks/layers/attn/{name}/kernel" for name in ("query", "key", "value")}
    directories.assert_near(run(base, ours), expected(base, model))
    peft_write.save(ours, tmp_path / "ours")
    before, after = (tensors(tmp_path / name) for name in ("theirs", "ours"))
    assert {name: x.tobytes() for name, x in before.items()} == {name: x.tobytes() for name, x in after.items()}


def test_an_adapter_of_some_kernels_of_a_fused_module_is_written_exactly(tmp_path: Path) -> None:
    base = opened(CASES[FIRST["gpt2"]], tmp_path / "base")
    method = make_method(dict(kind="lora", rank=2, alpha=3))
    params = attach(base.ours.params, method, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 8))
    params = map_paths(lambda _, x: x.replace(b=jax.random.normal(next(keys), x.b.shape)) if is_lora(x) else x, params)
    ours = replace(base.ours, params=params)
    peft_write.save(ours, tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = reference_peft.PeftModel.from_pretrained(copy.deepcopy(base.reference), tmp_path / "ours").eval()
    found = run(base, ours)
    directories.assert_near(found, expected(base, model))
    plain = run(base, base.ours)
    assert max(np.abs(found[name] - plain[name]).max() for name in found) > 1e-3
    again = peft.load(tmp_path / "ours", base.ours)
    directories.assert_near(run(base, again), found)


def is_lora(leaf: Any) -> bool:
    return isinstance(leaf, Lora)


def test_an_adapter_on_a_table_that_is_the_head_too_is_refused(tmp_path: Path) -> None:
    base = opened(CASES[FIRST["bert-decoder"]], tmp_path / "base")
    config = reference_peft.LoraConfig(target_modules=["word_embeddings"], r=2)
    with pytest.raises(UserError, match=r"is also the model's head"):
        peft.load(saved(adapted(base, config), tmp_path / "theirs"), base.ours)
