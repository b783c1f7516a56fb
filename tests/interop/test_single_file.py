"""A single file of Stable Diffusion is read as diffusers' own conversion reads it."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import jvlm
from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.core.tree import flatten
from jvlm.interop.diffusers import autoencoder, single_file, unet
from jvlm.interop.hf import clip_text
from jvlm.models import latent_diffusion
from tests.models_util import initialize
from tests.models_util import tiny as tiny_model
from tests.reference import transformers
from tests.reference_diffusers import torch

utils: Any = importlib.import_module("diffusers.loaders.single_file_utils")
LEVELS = dict(widths=(8, 16), depths=(1, 0), num_heads=(2, 2), mid_depth=1, layers=1, groups=4, image_size=4)
TEXT = dict(vocab_size=64, length=8, width=16, depth=2, num_heads=2, mlp_dim=24)


KINDS = ["sd-1.5", "sd-2.1", "sdxl"]


def config(kind: str) -> dict[str, Any]:
    two = kind == "sdxl"
    added: dict[str, Any] = {} if kind == "sd-1.5" else dict(linear_projection=True)
    added |= dict(size_dim=4, pooled_dim=10) if two else {}
    more: dict[str, Any] = dict(text_2=dict(TEXT, embed_dim=10), pads=(63, 0), zero_negative=True) if two else {}
    more |= dict(pads=(0,), schedule=dict(prediction="v")) if kind == "sd-2.1" else {}
    vae = dict(image_size=8, widths=(8, 16), layers=1, groups=4)
    return tiny_model(
        "latent-diffusion", unet=dict(LEVELS, context_dim=32 if two else 16, **added), vae=vae, text=TEXT, **more
    )


def tensors(kind: str, model: Any, params: Any) -> dict[str, np.ndarray]:
    """A file's own; of OpenCLIP's text tower also what SD 2.x does not use."""
    rules = single_file.rules(model, open_text=kind == "sd-2.1")
    out = {name: np.asarray(array) for name, array in mapping.save(rules, flatten(params))}
    if kind == "sd-2.1":
        block = "cond_stage_model.model.transformer.resblocks."
        last = {name.replace(".1.", ".2.", 1): x for name, x in out.items() if name.startswith(f"{block}1.")}
        more = {"text_projection": np.ones((16, 10), np.float32), "logit_scale": np.zeros((), np.float32)}
        out |= last | {f"cond_stage_model.model.{name}": x for name, x in more.items()}
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_layouts_are_those_that_diffusers_converts(kind: str) -> None:
    two = kind == "sdxl"
    model: Any
    model, variables, _ = initialize(config(kind))
    params = variables["params"]
    stored = {name: torch.from_numpy(array.copy()) for name, array in tensors(kind, model, params).items()}
    if kind == "sd-2.1":
        settings: dict[str, Any] = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, vocab_size=64)
        settings |= dict(num_attention_heads=2)
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings, max_position_embeddings=8))
        prefix = "cond_stage_model.model."
        del stored[f"{prefix}text_projection"]  # its width is the tower's in the release
        found = utils.convert_open_clip_checkpoint(text, stored, prefix=prefix)
        found = {name.removeprefix("text_model."): x for name, x in found.items()}
        for name, array in mapping.save(clip_text.TABLE.rules(model.text), flatten(params["text"])):
            np.testing.assert_array_equal(found[name].numpy(), array, err_msg=name)
    kinds = dict(layers_per_block=1, addition_embed_type="text_time" if two else None)
    coder = dict(down_block_types=[""] * 2, up_block_types=[""] * 2)
    for converted, rules, own in (
        (utils.convert_ldm_unet_checkpoint(stored, kinds), unet.rules(model.unet), params["unet"]),
        (utils.convert_ldm_vae_checkpoint(stored, coder), autoencoder.rules(model.vae), params["vae"]),
    ):
        wanted = dict(mapping.save(rules, flatten(own)))
        assert set(converted) == set(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(converted[name].numpy(), array, err_msg=name)
    if two:
        assert stored["conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"].shape == (48, 16)
        assert stored["conditioner.embedders.1.model.text_projection"].shape == (16, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_a_whole_model(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = config(kind)
    model, variables, _ = initialize(fields)
    small = {key: value for key, value in fields.items() if key != "family"}
    monkeypatch.setitem(latent_diffusion.VARIANTS, kind, small)
    stored = tensors(kind, model, variables["params"]) | {"betas": np.zeros(3), "model_ema.decay": np.zeros(1)}
    save_file(stored, tmp_path / "model.safetensors")
    found = jvlm.load(tmp_path / "model.safetensors")
    assert found.model == model and found.processor.tokenizer is not None
    mine, theirs = flatten(variables["params"]), flatten(found.params)
    assert set(mine) == set(theirs)
    for path, array in mine.items():
        np.testing.assert_array_equal(theirs[path], array, err_msg=path)
    if kind == "sd-2.1":
        assert found.processor.texts(["a"])[0, -1] == 0 and found.model.schedule == (("prediction", "v"),)
        save_file(stored | {"global_step": np.asarray(875_000)}, tmp_path / "base.safetensors")
        assert jvlm.load(tmp_path / "base.safetensors").model.schedule == (("prediction", "epsilon"),)
    del stored["model.diffusion_model.out.2.bias"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"'model\.diffusion_model\.out\.2\.bias' is missing"):
        jvlm.load(tmp_path / "model.safetensors")


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"holds no Stable Diffusion 1\.x, 2\.x or SDXL"):
        jvlm.load(tmp_path / "other.safetensors")
