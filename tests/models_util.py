"""Small helpers that model tests share: initialization, perturbation, published directories."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jvlm import models
from jvlm.core.tree import map_paths
from jvlm.nn.axes import split

APART = ("autoencoder", "clip-text", "latent-diffusion", "unet", "vq")
"""Families that take the compiler many seconds: tests/models/test_diffusion.py shows what the others show, once. The
text tower by itself is that of `clip`."""
TRANSFORMERS = [family for family in models.MODELS if family not in APART]


def inputs(model: Any, batch: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arguments for a model's call: a picture, tokens, or both, as its towers need them."""
    rng = np.random.default_rng(seed)
    if hasattr(model, "example"):
        return {name: _drawn(rng, shape, kind, model) for name, (shape, kind) in model.example(batch).items()}
    tower = getattr(model, "image_tower", model if hasattr(model, "image_size") else None)
    text = getattr(model, "text_tower", model if hasattr(model, "vocab_size") else None)
    out: dict[str, np.ndarray] = {}
    if hasattr(model, "image_token"):
        return multimodal_inputs(model, batch, seed)
    if tower is not None:
        size = tower.image_size
        height, width = (size, size) if isinstance(size, int) else size
        out["image"] = rng.normal(size=(batch, height, width, 3)).astype(np.float32)
    if text is not None:
        out["tokens"] = rng.integers(0, text.vocab_size, size=(batch, text.length)).astype(np.int32)
        if getattr(text, "decoder_depth", 0):
            out["targets"] = rng.integers(0, text.vocab_size, size=(batch, text.length - 2)).astype(np.int32)
    return out


def _drawn(rng: Any, shape: tuple[int, ...], dtype: Any, model: Any) -> np.ndarray:
    """Tokens or classes where integers are asked for, else numbers; times and sizes may be any."""
    if jnp.issubdtype(dtype, jnp.integer):
        most = model.text.text_tower.vocab_size if hasattr(model, "text") else model.num_classes
        return rng.integers(0, most, size=shape).astype(np.int32)
    return rng.normal(size=shape).astype(np.float32)


def multimodal_inputs(model: Any, batch: int = 3, seed: int = 0, pictures: int = 2) -> dict[str, np.ndarray]:
    """Rows of words in which the image token stands for the features of each of `pictures` pictures."""
    rng = np.random.default_rng(seed)
    size, text, count = model.image_tower.image_size, model.text_tower, model.image_tokens()
    height, width = (size, size) if isinstance(size, int) else size
    tokens = rng.integers(0, text.vocab_size, size=(batch, min(text.length, pictures * (count + 2)))).astype(np.int32)
    tokens = np.where(tokens == model.image_token, 0, tokens)
    for picture in range(pictures):
        start = picture * (count + 1)
        tokens[:, start : start + count] = model.image_token
    image = rng.normal(size=(batch, pictures, height, width, 3)).astype(np.float32)
    return dict(image=image, tokens=tokens)


LEAST = {"var": np.float32(1), "temperature": np.float32(0.1)}
"""What is divided by, by name."""


def initialize(config: Mapping[str, Any], seed: int = 0) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """(model, variables as plain arrays, names); every leaf is random, so that no zero hides a wrong path.

    Drawn by numpy: compiling `model.init` would cost more than most tests do.
    """
    model = models.create(config)
    shapes, names = abstract(model)
    rng = np.random.default_rng(seed)

    def draw(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=leaf.shape).astype(leaf.dtype)
        name = path.rpartition("/")[2]
        if name == "kernel":
            fan_in = np.prod(leaf.shape["/layers/" in path : -1])
            return jnp.asarray(noise * np.float32(0.3 * fan_in**-0.5))
        if name in LEAST:
            return jnp.asarray(LEAST[name] + np.abs(0.05 * noise))
        return jnp.asarray(0.05 * noise + (name == "scale"))

    return model, map_paths(draw, shapes), names


def tiny(family: str, **overrides: Any) -> dict[str, Any]:
    """The tiny configuration of a family, with overrides merged in."""
    from jvlm.core.build import merge

    return {"family": family, **merge(models.MODELS[family].tiny, overrides)}


def abstract(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(shapes of a model's variables, axis names) without allocating anything."""
    boxed = jax.eval_shape(model.init, jax.random.key(0), **inputs(model, batch=1))
    return split(dict(boxed))
