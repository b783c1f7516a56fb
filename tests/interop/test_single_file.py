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
from jvlm.models import latent_diffusion
from tests.models_util import initialize
from tests.models_util import tiny as tiny_model
from tests.reference_diffusers import torch

utils: Any = importlib.import_module("diffusers.loaders.single_file_utils")
LEVELS = dict(widths=(8, 16), depths=(1, 0), num_heads=(2, 2), mid_depth=1, layers=1, groups=4, image_size=4)
TEXT = dict(vocab_size=64, length=8, width=16, depth=2, num_heads=2, mlp_dim=24)


def config(two: bool) -> dict[str, Any]:
    added = dict(size_dim=4, pooled_dim=10, linear_projection=True) if two else {}
    more = dict(text_2=dict(TEXT, embed_dim=10), pads=(63, 0), zero_negative=True) if two else {}
    vae = dict(image_size=8, widths=(8, 16), layers=1, groups=4)
    return tiny_model(
        "latent-diffusion", unet=dict(LEVELS, context_dim=32 if two else 16, **added), vae=vae, text=TEXT, **more
    )


def tensors(model: Any, params: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in mapping.save(single_file.rules(model), flatten(params))}


@pytest.mark.parametrize("two", [False, True], ids=["sd-1.5", "sdxl"])
def test_names_and_layouts_are_those_that_diffusers_converts(two: bool) -> None:
    model: Any
    model, variables, _ = initialize(config(two))
    params = variables["params"]
    stored = {name: torch.from_numpy(array.copy()) for name, array in tensors(model, params).items()}
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


@pytest.mark.parametrize("two", [False, True], ids=["sd-1.5", "sdxl"])
def test_a_file_is_a_whole_model(two: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = config(two)
    model, variables, _ = initialize(fields)
    small = {key: value for key, value in fields.items() if key != "family"}
    monkeypatch.setitem(latent_diffusion.VARIANTS, "sdxl" if two else "sd-1.5", small)
    stored = tensors(model, variables["params"]) | {"betas": np.zeros(3), "model_ema.decay": np.zeros(1)}
    save_file(stored, tmp_path / "model.safetensors")
    found = jvlm.load(tmp_path / "model.safetensors")
    assert found.model == model and found.processor.tokenizer is not None
    mine, theirs = flatten(variables["params"]), flatten(found.params)
    assert set(mine) == set(theirs)
    for path, array in mine.items():
        np.testing.assert_array_equal(theirs[path], array, err_msg=path)
    del stored["model.diffusion_model.out.2.bias"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"'model\.diffusion_model\.out\.2\.bias' is missing"):
        jvlm.load(tmp_path / "model.safetensors")


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"holds no Stable Diffusion 1\.x or SDXL"):
        jvlm.load(tmp_path / "other.safetensors")
