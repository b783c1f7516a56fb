"""open_clip directories: what it saved, we compute; what we write, it opens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jvlm import models
from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.interop import open_clip as ours
from jvlm.interop import safetensors
from jvlm.interop.table import variables_flat, variables_nested
from tests.interop import directories
from tests.interop.hf_runs import arrays, pixels
from tests.models_util import initialize, inputs, tiny
from tests.reference_open_clip import open_clip, open_clip_config, torch

SMALL: dict[str, Any] = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=16, patch_size=8, width=32, layers=2, head_width=8),
    text_cfg=dict(context_length=9, vocab_size=60, width=32, heads=4, layers=2),
)


def cfg(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    towers = dict(vision_cfg=SMALL["vision_cfg"] | (vision or {}), text_cfg=SMALL["text_cfg"] | (text or {}))
    return SMALL | towers | fields


CASES: dict[str, dict[str, Any]] = {
    "gelu": cfg(),
    "quick gelu": cfg(quick_gelu=True),
    "odd sizes": cfg(
        dict(width=35, head_width=7, mlp_ratio=1.7, patch_size=5, image_size=[22, 16], layers=1),
        dict(width=21, heads=3, mlp_ratio=2.2, norm_kwargs=dict(eps=1e-3)),
        embed_dim=13,
    ),
    "mean, norm before it": cfg(dict(pool_type="avg", no_ln_pre=True)),
    "mean, norm after it": cfg(
        dict(pool_type="avg", final_ln_after_pool=True), dict(act_kwargs=dict(approximate="tanh"))
    ),
    "end token by id": cfg({}, dict(pool_type="eos", eos_id=41)),
    "bidirectional text, last token, custom text": cfg(
        {}, dict(no_causal_mask=True, pool_type="last"), custom_text=True
    ),
    "sigmoid": cfg(init_logit_bias=-10.0, init_logit_scale=2.3),
    "sine and cosine positions": cfg(dict(pos_embed_type="sin_cos_2d", pool_type="avg", patch_dropout=0.5)),
}


@dataclass(frozen=True)
class Opened:
    reference: Any
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    model: Any
    variables: dict[str, Any]


def create(config: dict[str, Any]) -> Any:
    return models.create(config)


def load(directory: Path) -> tuple[Any, dict[str, Any]]:
    config = json.loads((directory / ours.CONFIG).read_text())
    model = create({"family": ours.TABLE.family, **ours.TABLE.fields(config)})
    reader = safetensors.SafetensorsReader(directory, ours.WEIGHTS, renames=ours.TABLE.renames)
    flat = mapping.load(ours.rules(model), directories.shapes(model), reader, ignore=ours.TABLE.ignore)
    return model, variables_nested(flat)


def save(directory: Path, model: Any, variables: dict[str, Any]) -> None:
    safetensors.write(directory, mapping.save(ours.rules(model), variables_flat(variables)), ours.WEIGHTS)
    (directory / ours.CONFIG).write_text(json.dumps(ours.config(model)))


def build(config: dict[str, Any]) -> Any:
    config = json.loads(json.dumps(config))
    cls = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(0)
    return directories.perturbed(cls(**config))


@pytest.fixture(scope="module", params=CASES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    directory = tmp_path_factory.mktemp("source")
    config = CASES[request.param]
    reference = build(config)
    reference.visual.image_mean, reference.visual.image_std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    tensors = {name: x.contiguous() for name, x in reference.state_dict().items()}
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    save_file(tensors, directory / ours.WEIGHTS)
    save_config: Any = save_config_for_hf  # whose annotation of the path says str
    save_config(reference, directory / ours.CONFIG, config)
    saved = json.loads((directory / ours.CONFIG).read_text())
    return Opened(reference, saved, {name: x.numpy() for name, x in tensors.items()}, *load(directory))


def given(model: Any) -> dict[str, np.ndarray]:
    out = inputs(model)
    tokens = out["tokens"] % 41
    for row in range(len(tokens)):
        tokens[row, 3 + row :] = 0
        tokens[row, 3 + row] = 41
    return out | dict(tokens=tokens)


def run_reference(model: Any, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        out = model(pixels(given["image"]), torch.from_numpy(given["tokens"]).long())
    out = out if isinstance(out, tuple) else tuple(out.values())
    return arrays(zimg=out[0], ztxt=out[1], scale=out[2], bias=out[3] if len(out) > 3 else None)


def run_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> dict[str, Any]:
    out = jax.jit(model.apply)(variables, **given)
    result = dict(zimg=out.zimg, ztxt=out.ztxt, scale=out.scale)
    return result if out.bias is None else result | dict(bias=out.bias)


def test_imported_embeddings_equal_open_clip(source: Opened) -> None:
    x = given(source.model)
    directories.assert_near(run_ours(source.model, source.variables, x), run_reference(source.reference, x), 2e-6)


def test_open_clip_opens_the_export_with_equal_embeddings(source: Opened, tmp_path: Path) -> None:
    save(tmp_path, source.model, source.variables)
    again = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    x = given(source.model)
    directories.assert_near(run_reference(again, x), run_reference(source.reference, x), 1e-6)


def test_exported_tensors_are_those_of_open_clip_to_the_bit(source: Opened) -> None:
    written = dict(mapping.save(ours.rules(source.model), variables_flat(source.variables)))
    theirs = {name.removeprefix("text."): x for name, x in source.tensors.items()}
    assert written.keys() == theirs.keys()
    assert all(directories.bits(written[name]) == directories.bits(x) for name, x in theirs.items())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_export_then_import_is_exact(dtype: str, tmp_path: Path) -> None:
    model, variables, _ = initialize(tiny("clip", bias_init=-3.0))
    variables = directories.cast(variables, dtype)
    save(tmp_path, model, variables)
    again, read = load(tmp_path)
    # The initial scale travels as its logarithm; the scale itself is a parameter.
    assert again.clone(scale_init=model.scale_init) == model
    directories.assert_same_bits(read, variables)


def test_configuration_round_trip_gives_the_same_model(source: Opened) -> None:
    written = json.loads(json.dumps(ours.config(source.model)))
    assert create({"family": "clip", **ours.fields(written)}) == source.model


def test_hidden_sizes_that_a_rounded_ratio_would_shorten_survive() -> None:
    # 15 / 11 * 11 is below 15 in floating point, and open_clip truncates.
    model = create(tiny("clip", text=dict(width=11, num_heads=1, mlp_dim=15)))
    assert ours.fields(ours.config(model))["text"]["mlp_dim"] == 15


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-L-14-CLIPA"]
)
def test_published_configurations_survive_a_round_trip(name: str) -> None:
    fields = ours.fields(dict(model_cfg=open_clip_config(name)))
    assert ours.fields(ours.config(create({"family": "clip", **fields}))) == fields


def test_preprocessing_is_read_in_full(source: Opened) -> None:
    read = ours.preprocess(source.config)
    assert read["mean"] == [0.5] * 3
    assert read["std"] == [0.25] * 3
    assert read["size"] == source.config["model_cfg"]["vision_cfg"]["image_size"]
    assert (read["interpolation"], read["resize_mode"]) == ("bicubic", "shortest")


def test_export_carries_open_clip_s_default_preprocessing(tmp_path: Path) -> None:
    from open_clip.transform import PreprocessCfg

    model, variables, _ = initialize(tiny("clip"))
    save(tmp_path, model, variables)
    visual: Any = open_clip.create_model(f"local-dir:{tmp_path}").visual
    default = PreprocessCfg(size=16)
    assert visual.preprocess_cfg["mean"] == list(default.mean)
    assert visual.preprocess_cfg["std"] == list(default.std)
    assert visual.preprocess_cfg["size"] in (16, (16, 16))


@pytest.mark.parametrize(
    ("vision", "text", "named"),
    [
        (dict(attentional_pool=True), {}, "attentional_pool"),
        (dict(timm_model_name="convnext_base"), {}, "timm_model_name"),
        (dict(ls_init_value=0.1), {}, "ls_init_value"),
        (dict(layers=[3, 4, 6, 3]), {}, "ResNet"),
        (dict(pool_type="none"), {}, "pool_type"),
        ({}, dict(hf_model_name="xlm-roberta-base"), "hf_model_name"),
        ({}, dict(embed_cls=True), "embed_cls"),
        ({}, dict(qk_norm=True), "qk_norm"),
        ({}, dict(proj_bias=True), "proj_bias"),
        ({}, dict(norm_kwargs=dict(elementwise_affine=False)), "elementwise_affine"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(vision: dict[str, Any], text: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ours.fields(dict(model_cfg=cfg(vision, text)))


def test_a_model_that_open_clip_cannot_express_is_refused() -> None:
    with pytest.raises(UserError, match="no projection of the picture"):
        ours.config(create(tiny("siglip")))
    with pytest.raises(UserError, match="quick_gelu in one tower"):
        ours.config(create(tiny("clip", text=dict(act="gelu"))))
