"""Tiles fade into each other as those of diffusers' autoencoder do."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jvlm.generate.tiles import tiled
from jvlm.interop.diffusers.component import load_component
from tests.cli.pipelines import vae
from tests.interop.diffusers_cases import channels_last
from tests.reference_diffusers import torch


def test_a_tiled_picture_is_that_of_diffusers_tiled_decoding(tmp_path: Path) -> None:
    theirs = vae()
    theirs.save_pretrained(tmp_path)
    theirs.enable_tiling()
    ours = load_component(tmp_path)
    z = np.random.default_rng(0).normal(size=(1, 7, 8, 4)).astype(np.float32)
    with torch.no_grad():
        wanted = channels_last(theirs.decode(torch.from_numpy(z.transpose(0, 3, 1, 2).copy())).sample)

    @jax.jit
    def decode(z: jax.Array) -> Any:
        return ours.model.apply({"params": ours.params}, z, method="decode")

    got = tiled(decode, jax.numpy.asarray(z), theirs.tile_latent_min_size, 2)
    assert got.shape == (1, 14, 16, 3)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert np.abs(got - np.asarray(decode(jax.numpy.asarray(z)))).max() > 1e-3
