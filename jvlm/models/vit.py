"""The vision transformer, in every shape that the dual encoders publish."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jvlm.core.build import call, lookup
from jvlm.core.sharding import constrain
from jvlm.nn.axes import named
from jvlm.nn.block import Block
from jvlm.nn.dense import Dense
from jvlm.nn.hidden import hidden_states
from jvlm.nn.norms import LayerNorm
from jvlm.nn.patches import PatchEmbed, drop_patches
from jvlm.nn.pooling import MapHead
from jvlm.nn.positions import sincos_2d
from jvlm.nn.stack import Stack


class VisionOutput(struct.PyTreeNode):
    """`tokens` [B, N, D], the sequence of the last block; `pooled` [B, D], or None without pooling."""

    tokens: jax.Array
    pooled: jax.Array | None
    logits: jax.Array | None = None


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., arXiv:2010.11929).

    `pool`: `cls` (class token), `avg`, `map` (attention pooling, arXiv:2106.04560) or `none`. `pre_norm` normalizes
    the embedded sequence before the blocks, as CLIP does. `norm_tokens` False applies the last norm to the pooled
    vector only (CLIP). `pooler` adds BERT's dense-tanh on the pooled vector; `num_classes` a linear head.
    Learned positions start as noise of deviation 0.02, or, with `posemb_sincos`, as that multiple of the sine-cosine
    table (whose longest wave suits the grid), which a short training need not find out; the class token then starts
    at their size.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch_size: int
    image_size: int | tuple[int, int]
    pool: str = "cls"
    posemb: str = "learned"
    posemb_sincos: float | None = None
    class_token: bool = True
    patch_bias: bool = True
    pre_norm: bool = False
    norm_tokens: bool = True
    qkv_bias: bool = True
    pooler: bool = False
    num_classes: int | None = None
    act: str = "gelu"
    eps: float = 1e-6
    dropout: float = 0.0
    patch_dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        return size[0] // self.patch_size, size[1] // self.patch_size

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, layers: tuple[int, ...] | None = None) -> VisionOutput:
        """`layers` asks for the hidden states there, side by side, as the only output: 0 is what enters the blocks,
        -1 what leaves the last one, before the last norm.
        """
        x = PatchEmbed(self.width, self.patch_size, self.patch_bias, self.dtype, name="patches")(image)
        x = self._add_positions(x)  # [B, N, D]
        if train and self.patch_dropout > 0:
            prefix = int(self.class_token)
            kept = drop_patches(x[:, prefix:], self.patch_dropout, self.make_rng("dropout"))
            x = jnp.concatenate([x[:, :prefix], kept], axis=1)
        x = constrain(x, ("batch", "sequence", None))
        if self.pre_norm:
            x = LayerNorm(self.eps, self.dtype, name="norm_pre")(x)
        block = Block(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            act=self.act,
            eps=self.eps,
            qkv_bias=self.qkv_bias,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        if layers is not None and not self.is_initializing():
            return VisionOutput(tokens=self._hidden(block, x, layers, train), pooled=None)
        at = 0 if self.pool == "cls" else None
        x, token = Stack(block, self.depth, self.scan, self.remat, name="blocks")(x, train=train, at=at)
        norm = LayerNorm(self.eps, self.dtype, name="norm")
        if self.norm_tokens:
            x = norm(x)
        pooled = self._pool(x) if token is None else token
        if pooled is not None and (token is not None or not self.norm_tokens):
            pooled = norm(pooled)
        logits = None
        if self.num_classes is not None and pooled is not None:
            head = Dense(self.num_classes, axes=("embed", None), dtype=self.dtype, name="head")
            logits = head(pooled).astype(jnp.float32)
        if self.pooler and pooled is not None:
            dense = Dense(self.width, axes=("embed", None), dtype=self.dtype, name="pooler")
            pooled = jnp.tanh(dense(pooled))
        if layers is not None:
            x = jnp.concatenate([x] * len(layers), axis=-1)  # initialization makes every parameter, and these shapes
        return VisionOutput(tokens=x, pooled=pooled, logits=logits)

    def _hidden(self, block: Block, x: jax.Array, layers: tuple[int, ...], train: bool) -> jax.Array:
        after = [layer % (self.depth + 1) for layer in layers]
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        params = self.variables["params"]["blocks"]
        return hidden_states(block, params, x, after, scan=self.scan, remat=self.remat, train=train, key=key)

    def _add_positions(self, x: jax.Array) -> jax.Array:
        rows, cols = self.grid
        if x.shape[1] != rows * cols:
            raise ValueError(f"the picture has {x.shape[1]} patches, the model {rows} x {cols}")
        prefix = int(self.class_token)
        if self.class_token:
            init = nn.initializers.normal(self.posemb_sincos or 0.02)
            token = self.param("class_token", named(init, (None, None, "embed")), (1, 1, self.width), jnp.float32)
            token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        if self.posemb == "learned":
            shape = (1, prefix + rows * cols, self.width)
            init = nn.initializers.normal(0.02)
            if self.posemb_sincos is not None:
                waves = self.posemb_sincos * sincos_2d(rows, cols, self.width, temperature=100.0)
                init = nn.initializers.constant(jnp.pad(waves, ((0, 0), (prefix, 0), (0, 0))))
            table = self.param("pos_embed", named(init, (None, None, "embed")), shape, jnp.float32)
        elif self.posemb == "sincos":
            table = jnp.pad(sincos_2d(rows, cols, self.width), ((0, 0), (prefix, 0), (0, 0)))
        else:
            raise ValueError(f"position embedding {self.posemb!r} is unknown; valid: learned, sincos")
        return x + table.astype(self.dtype)

    def _pool(self, x: jax.Array) -> jax.Array | None:
        if self.pool == "cls":
            return x[:, 0]
        if self.pool == "avg":
            return x[:, int(self.class_token) :].mean(axis=1)
        if self.pool == "map":
            return MapHead(self.num_heads, self.mlp_dim, self.act, self.eps, self.dtype, name="map_head")(x)
        if self.pool == "none":
            return None
        raise ValueError(f"pooling {self.pool!r} is unknown; valid: cls, avg, map, none")


def _size(width: int, depth: int, num_heads: int, mlp_dim: int) -> dict[str, int]:
    return dict(width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim)


SIZES: dict[str, dict[str, int]] = {
    # DeiT, arXiv:2012.12877
    "Ti": _size(192, 12, 3, 768),
    "S": _size(384, 12, 6, 1536),
    "M": _size(512, 12, 8, 2048),
    # ViT, arXiv:2010.11929, table 1
    "B": _size(768, 12, 12, 3072),
    "L": _size(1024, 24, 16, 4096),
    "H": _size(1280, 32, 16, 5120),
    # Shape-optimized, arXiv:2305.13035
    "So400m": _size(1152, 27, 16, 4304),
    # Scaling ViT, arXiv:2106.04560, table 2
    "g": _size(1408, 40, 16, 6144),
    "G": _size(1664, 48, 16, 8192),
    # SigLIP 2's giant, arXiv:2502.14786
    "g-opt": _size(1536, 40, 16, 6144),
}
"""Widths and depths by the letter the papers use; open_clip's bigG is `G`."""


def vit(size: str | None = None, dtype: Any = "float32", **fields: Any) -> ViT:
    """A ViT from `size` (a key of `SIZES`) and fields that complete or override it."""
    shape = lookup(SIZES, size, "ViT size") if size else {}
    return call(ViT, {**shape, **fields, "dtype": jnp.dtype(dtype)}, "model 'vit'")


VARIANTS: dict[str, dict[str, Any]] = {
    f"{size}/{patch}": dict(SIZES[size], patch_size=patch, image_size=224, num_classes=1000)
    for size, patch in [
        ("Ti", 16), ("S", 16), ("S", 32), ("B", 16), ("B", 32), ("L", 16), ("L", 32), ("H", 14), ("g", 14), ("G", 14)
    ]
}  # fmt: skip
"""ImageNet classifiers of arXiv:2010.11929, arXiv:2012.12877 and arXiv:2106.04560."""
