"""BLIP-2's first stage: the Q-Former learns to see, by contrast, matching and captioning."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jvlm.core.build import call
from jvlm.core.types import Leaf
from jvlm.models.dual_encoder import normalize
from jvlm.models.qformer import QFormer
from jvlm.models.vit import SIZES, ViT
from jvlm.nn.activations import activation
from jvlm.nn.axes import named
from jvlm.nn.dense import Dense
from jvlm.nn.norms import LayerNorm

QUERY_FIELDS: dict[str, Any] = dict(num_queries=32, width=768, depth=12, num_heads=12, mlp_dim=3072)
"""The published Q-Former: BERT-base with 32 queries."""
_TOWER: dict[str, Any] = dict(pool="none", act="gelu", eps=1e-6)


class QueryOutput(struct.PyTreeNode):
    """`zimg` [B, Q, E] and `ztxt` [B, E] of unit norm in float32, and `scale` [], which multiplies their products."""

    zimg: Leaf
    ztxt: Leaf
    scale: Leaf


class Blip2Pretrain(nn.Module):
    """BLIP-2's first stage (Li et al., arXiv:2301.12597, section 3.2): one Q-Former under three masks.

    `generation` adds what only training needs: the temperature, and BERT's head for words, tied to the embeddings;
    without them the model is a matcher (`Blip2ForImageTextRetrieval`).
    """

    image_tower: Any
    qformer: QFormer
    embed_dim: int = 256
    generation: bool = True
    temperature_init: float = 0.07

    def setup(self) -> None:
        dtype = self.qformer.dtype
        self.image_proj = Dense(self.embed_dim, axes=("embed", None), dtype=dtype)
        self.text_proj = Dense(self.embed_dim, axes=("embed", None), dtype=dtype)
        self.match = Dense(2, axes=("embed", None), dtype=dtype)
        if self.generation:
            init = nn.initializers.constant(self.temperature_init)
            self.temperature = self.param("temperature", named(init, ()), (), jnp.float32)
            width = self.qformer.width
            self.word_dense = Dense(width, axes=("embed", None), dtype=dtype)
            self.word_norm = LayerNorm(self.qformer.eps, dtype)
            zeros = named(nn.initializers.zeros_init(), ("vocab",))
            self.word_bias = self.param("word_bias", zeros, (self.qformer.vocab_size,), jnp.float32)

    @property
    def text_tower(self) -> QFormer:
        """What reads texts."""
        return self.qformer

    def __call__(self, image: jax.Array, tokens: jax.Array, train: bool = False) -> QueryOutput:
        """`image` [B, H, W, 3] and `tokens` [B, T], BERT's, the class token first."""
        features = self.features(image, train)
        if self.is_initializing():
            x = self.read(features, tokens, "causal", train)  # all of the Q-Former at once
            self.matched(features, tokens, train=train)
            if self.generation:
                self.words(x)
        return QueryOutput(
            zimg=self.image_queries(features, train),
            ztxt=self.text(tokens, train),
            scale=1.0 / self.temperature if self.generation else jnp.ones(()),
        )

    def features(self, image: jax.Array, train: bool = False) -> jax.Array:
        """What the vision tower says of `image`, [B, N, D']."""
        return self.image_tower(image, train=train).tokens

    def image_queries(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Embeddings [B, Q, E] of what the queries alone read."""
        return normalize(self.image_proj(self.qformer(features, train=train)))

    def text(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        """Embeddings [B, E] of texts that see no picture: their class token's."""
        return normalize(self.text_proj(self.qformer(tokens=tokens, train=train)[:, 0]))

    def matched(self, features: jax.Array, tokens: jax.Array, mask: Any = None, train: bool = False) -> jax.Array:
        """Logits [B, 2] in float32 that picture and text do not belong together, and that they do."""
        x = self.qformer(features, tokens, mask, train=train)[:, : self.qformer.num_queries]
        return self.match(x).astype(jnp.float32).mean(axis=1)

    def read(self, features: jax.Array, tokens: jax.Array, kind: str = "causal", train: bool = False) -> jax.Array:
        """The sequence [B, T, D] of the words behind the queries, under the mask `kind`."""
        return self.qformer(features, tokens, kind=kind, train=train)[:, self.qformer.num_queries :]

    def words(self, x: jax.Array) -> jax.Array:
        """Logits [..., V] in float32 of the word after each of `x` [..., D]."""
        if not self.generation:
            raise ValueError("this Q-Former has no head for words")
        y = self.word_norm(activation(self.qformer.act)(self.word_dense(x)))
        return self.qformer.attend(y).astype(jnp.float32) + self.word_bias


def vision_tower(image: dict[str, Any], dtype: Any, shared: dict[str, Any]) -> ViT:
    """BLIP-2's vision tower, whose whole sequence is normalized and read."""
    return call(ViT, _TOWER | shared | dict(image, dtype=dtype), "the image tower")


def blip2_pretrain(
    *,
    image: dict[str, Any],
    text: dict[str, Any],
    embed_dim: int = 256,
    generation: bool = True,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
) -> Blip2Pretrain:
    """A `Blip2Pretrain` from plain fields of a `ViT` and, `text`, of a `QFormer` with a `vocab_size`."""
    numbers, shared = jnp.dtype(dtype), dict(scan=scan, remat=remat)
    return Blip2Pretrain(
        image_tower=vision_tower(image, numbers, shared),
        qformer=call(QFormer, QUERY_FIELDS | shared | dict(text, dtype=numbers), "the Q-Former"),
        embed_dim=embed_dim,
        generation=generation,
    )


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2301.12597, section 3: ViT-L/14 of CLIP, ViT-g/14 of EVA-CLIP, each without its last layer
    "ViT-g": dict(image=dict(SIZES["g"], depth=39, patch_size=14, image_size=224), text=dict(vocab_size=30523)),
}

TINY: dict[str, Any] = dict(
    image=dict(width=32, depth=2, num_heads=4, mlp_dim=48, patch_size=8, image_size=16),
    text=dict(num_queries=3, width=32, depth=4, num_heads=4, mlp_dim=48, vocab_size=64, length=8),
    embed_dim=24,
)
