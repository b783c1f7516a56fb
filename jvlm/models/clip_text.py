"""CLIP's text tower by itself, as pictures are painted from it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import call
from jvlm.models.text import TextOutput, TextTransformer
from jvlm.nn.dense import Dense


class ClipText(nn.Module):
    """A text tower (Radford et al., arXiv:2103.00020) and the projection [D, E] of its pooled token, if there is one.

    Returns the tower's output, its `pooled` [B, E] projected.
    """

    text_tower: TextTransformer
    proj: Any = None

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.text_tower.length

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False, layer: int | None = None) -> TextOutput:
        out = self.text_tower(tokens, train=train, layer=layer)
        return out if self.proj is None else out.replace(pooled=self.proj(out.pooled))


def clip_text(*, embed_dim: int | None = None, dtype: Any = "float32", **fields: Any) -> ClipText:
    """A `ClipText` from plain fields of its tower; `embed_dim` None leaves the projection out."""
    dtype = jnp.dtype(dtype)
    proj = None if embed_dim is None else Dense(embed_dim, ("embed", None), use_bias=False, dtype=dtype)
    return ClipText(call(TextTransformer, {**fields, "dtype": dtype}, "model 'clip-text'"), proj)


def _size(width: int, depth: int, **fields: Any) -> dict[str, Any]:
    own = dict(width=width, depth=depth, num_heads=width // 64, mlp_dim=4 * width)
    return dict(own, vocab_size=49408, length=77, **fields)


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2112.10752: OpenAI's ViT-L/14; SD 2.1: OpenCLIP's ViT-H/14 without its last block
    "sd-1.5": _size(768, 12),
    "sd-2.1": _size(1024, 23, act="gelu"),
    # arXiv:2307.01952: the second of two, OpenCLIP's ViT-bigG/14
    "sdxl-2": _size(1280, 32, act="gelu", embed_dim=1280),
}

TINY: dict[str, Any] = dict(
    vocab_size=64, length=8, width=32, depth=2, num_heads=2, mlp_dim=48, eos_id=63, embed_dim=24
)
