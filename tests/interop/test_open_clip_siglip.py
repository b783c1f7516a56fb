"""SigLIP in open_clip directories: what it saved, we compute; what we write, it opens, tokenizer included."""

import json
import string
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jvlm
from jvlm import models
from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import tokenizer_from_files
from jvlm.interop import open_clip_siglip as ours
from jvlm.interop import safetensors
from jvlm.interop.open_clip import CONFIG, WEIGHTS
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import variables_flat
from tests.interop import directories
from tests.interop.hf_runs import arrays, pixels
from tests.models_util import initialize, inputs
from tests.reference_open_clip import open_clip, torch

WIDTH, HEADS, MLP, PATCH, SIDE = 32, 4, 48, 8, 16
NAME = "vit_{}_patch8_siglip_16"
TEXT: dict[str, Any] = dict(
    context_length=9, vocab_size=60, width=24, heads=3, layers=2, no_causal_mask=True, proj_bias=True, pool_type="last",
    norm_kwargs=dict(eps=1e-6),
)  # fmt: skip
TANH = dict(act_kwargs=dict(approximate="tanh"))


@pytest.fixture(scope="module", autouse=True)
def small_trunks() -> Any:
    """Trunks of timm's own class that tests can afford, under names that both sides know meanwhile."""
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    def trunk(act: str | None, **kwargs: Any) -> Any:
        given = {key: kwargs[key] for key in ("num_classes", "global_pool") if key in kwargs}
        return VisionTransformer(
            img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=HEADS, mlp_ratio=MLP / WIDTH,
            class_token=False, act_layer=act, **given,
        )  # fmt: skip

    def vit_exact_patch8_siglip_16(pretrained: bool = False, **kwargs: Any) -> Any:
        return trunk(None, **kwargs)

    def vit_tanh_patch8_siglip_16(pretrained: bool = False, **kwargs: Any) -> Any:
        return trunk("gelu_tanh", **kwargs)

    shape = dict(width=WIDTH, depth=2, num_heads=HEADS, mlp_dim=MLP, patch_size=PATCH, image_size=SIDE)
    with pytest.MonkeyPatch.context() as patch:
        for function, act in ((vit_exact_patch8_siglip_16, "gelu"), (vit_tanh_patch8_siglip_16, "gelu_tanh")):
            register_model(function)
            patch.setitem(ours.TRUNKS, function.__name__, dict(shape, act=act))
        yield


def config_of(kind: str, **text: Any) -> dict[str, Any]:
    vision = dict(image_size=SIDE, timm_model_name=NAME.format(kind), timm_pool="map", timm_proj="none")
    return dict(embed_dim=WIDTH, init_logit_bias=-10.0, vision_cfg=vision, text_cfg=TEXT | text)


def published(kind: str, **text: Any) -> tuple[Any, Any, dict[str, Any], dict[str, np.ndarray]]:
    """open_clip's model with random weights; the same of ours; its tensors."""
    config = config_of(kind, **text)
    torch.manual_seed(0)
    reference = directories.perturbed(open_clip.CustomTextCLIP(**json.loads(json.dumps(config))))
    tensors = {name: x.numpy() for name, x in reference.state_dict().items()}
    model = models.create({"family": "siglip", **ours.fields(dict(model_cfg=config))})
    return reference, model, config, tensors


def both(reference: Any, model: Any, variables: Any, x: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    out: Any = jax.jit(model.apply)(variables, **x)
    with torch.no_grad():
        found = reference(pixels(x["image"]), torch.from_numpy(x["tokens"]).long())
    found = found if isinstance(found, tuple) else tuple(found.values())
    return dict(zimg=out.zimg, ztxt=out.ztxt, scale=out.scale, bias=out.bias), arrays(
        **dict(zip(("zimg", "ztxt", "scale", "bias"), found))
    )


@pytest.mark.parametrize(
    ("kind", "text"), [("exact", {}), ("tanh", TANH), ("exact", dict(width=36, mlp_ratio=1.7, **TANH))]
)
def test_imported_embeddings_equal_open_clip_and_go_back_to_the_bit(
    kind: str, text: dict[str, Any], tmp_path: Path
) -> None:
    reference, model, config, tensors = published(kind, **text)
    safetensors.write(tmp_path, tensors.items(), WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(dict(model_cfg=config)))
    found = jvlm.load(tmp_path)
    variables = {"params": found.params, **found.state}
    directories.assert_near(*both(reference, found.model, variables, inputs(model)), 2e-6)
    written = dict(mapping.save(ours.rules(found.model), variables_flat(variables)))
    assert written.keys() == tensors.keys()
    assert all(directories.bits(written[name]) == directories.bits(x) for name, x in tensors.items())


def test_the_trunks_are_those_of_timm() -> None:
    import timm

    for name, trunk in ours.TRUNKS.items():
        if name.endswith("_siglip_16"):
            continue
        with torch.device("meta"):
            found: Any = timm.create_model(name, num_classes=0, global_pool="map")
        act = {"GELU": "gelu", "GELUTanh": "gelu_tanh"}[type(found.blocks[0].mlp.act).__name__]
        theirs = dict(
            width=found.embed_dim, depth=len(found.blocks), num_heads=found.blocks[0].attn.num_heads,
            mlp_dim=found.blocks[0].mlp.fc1.out_features, patch_size=found.patch_embed.patch_size[0],
            image_size=found.patch_embed.img_size[0], act=act,
        )  # fmt: skip
        assert trunk == theirs, name
    known = {name for name in timm.list_models("vit_*_siglip_*") if "_gap_" not in name and "_siglip_16" not in name}
    assert known <= set(ours.TRUNKS)


def test_open_clip_embeds_files_and_texts_with_the_export_as_jvlm_does(tmp_path: Path) -> None:
    import sentencepiece
    from transformers import SiglipTokenizer

    words = [f"a photo of the {c}at and a {d}og" for c in string.ascii_lowercase for d in string.ascii_lowercase]
    (tmp_path / "text.txt").write_text("\n".join(words))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=50, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    SiglipTokenizer(str(tmp_path / "spiece.model")).save_pretrained(tmp_path / "tokenizer")
    files = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    tokenizer = tokenizer_from_files(files)
    fields = ours.fields(dict(model_cfg=config_of("exact")))
    model, variables, _ = initialize({"family": "siglip", **fields})
    processor = Processor(ImageSpec.siglip(SIDE), TextSpec(length=9, pad_id=tokenizer.pad_id), tokenizer)
    source = Pretrained(model, variables["params"], {}, {"family": "siglip", **fields}, processor, {})
    jvlm.save(source, tmp_path / "out", format="open_clip")

    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)) for i in range(3)]
    texts = ["A photo of the bat, and a hog!", "the_cat", "a dog and a dog and a dog and a dog"]
    created = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    theirs: Any = created[0].eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(texts)
    with torch.no_grad():
        prepare: Any = created[2]
        zimg = theirs.encode_image(torch.stack([prepare(picture) for picture in pictures]), normalize=True).numpy()
        ztxt = theirs.encode_text(tokens, normalize=True).numpy()
    found = jvlm.load(tmp_path / "out")
    given = dict(image=found.processor.images(pictures), tokens=found.processor.texts(texts))
    assert given["tokens"].tolist() == tokens.tolist()
    out: Any = jax.jit(found.model.apply)({"params": found.params}, **given)
    np.testing.assert_allclose(out.zimg, zimg, atol=1e-5)
    np.testing.assert_allclose(out.ztxt, ztxt, atol=1e-5)


def test_what_timm_has_no_tower_for_is_refused(tmp_path: Path) -> None:
    fields = ours.fields(dict(model_cfg=config_of("exact")))
    fields["image"]["depth"] = 3
    model: Any = initialize({"family": "siglip", **fields})[0]
    with pytest.raises(UserError, match=r"timm, which has none with .*depth 3.*--format hf"):
        ours.config(model)
    wrong = config_of("exact")
    wrong["vision_cfg"]["timm_model_name"] = "vit_exact_patch8_siglp_16"
    with pytest.raises(UserError, match="did you mean 'vit_exact_patch8_siglip_16'"):
        ours.fields(dict(model_cfg=wrong))
    with pytest.raises(UserError, match=r"vision_cfg\.timm_pool = 'avg'"):
        ours.fields(dict(model_cfg=config_of("exact") | dict(
            vision_cfg=dict(config_of("exact")["vision_cfg"], timm_pool="avg"))))  # fmt: skip
