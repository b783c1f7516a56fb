"""BERT as a causal decoder: the same blocks read from left to right, with cross-attention where wanted, and a head."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import call
from jvlm.core.sharding import constrain
from jvlm.models.decoder import DecoderOutput
from jvlm.nn import masks
from jvlm.nn.activations import activation
from jvlm.nn.axes import named
from jvlm.nn.cache import Cache, empty
from jvlm.nn.decoder_block import DecoderBlock, Shared
from jvlm.nn.decoder_masks import token_positions, view
from jvlm.nn.decoder_stack import DecoderStack
from jvlm.nn.dense import Dense, Embed, normal
from jvlm.nn.norms import LayerNorm
from jvlm.nn.pooling import pick


class BertDecoder(nn.Module):
    """BERT (arXiv:1810.04805) with a causal mask, as BLIP's captioner uses it (arXiv:2201.12086, section 3.1).

    With `cross` every block attends to a memory [B, M, `memory_width`] between its two halves. The head is BERT's:
    a product, an activation, a norm, then the embedding and a bias.
    """

    tied: ClassVar[bool] = True

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    length: int = 512
    num_types: int = 2
    cross: bool = True
    memory_width: int | None = None
    act: str = "gelu"
    eps: float = 1e-12
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    continues = True

    def setup(self) -> None:
        width, dtype = self.width, self.dtype
        self.token_embed = Embed(self.vocab_size, width, dtype=dtype)
        self.type_embed = Embed(self.num_types, width, (None, "embed"), dtype=dtype)
        self.pos_embed = self.param(
            "pos_embed", named(normal(0.02), (None, "embed")), (self.length, width), jnp.float32
        )
        self.norm = LayerNorm(self.eps, dtype)
        self.drop = nn.Dropout(self.dropout)
        block = DecoderBlock(
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=width // self.num_heads,
            mlp_dim=self.mlp_dim,
            scale=(width // self.num_heads) ** -0.5,
            act=self.act,
            gated=False,
            norm="layer",
            place="post",
            eps=self.eps,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            cross=self.cross,
            dropout=self.dropout,
            dtype=dtype,
            parent=None,
        )
        self.blocks = DecoderStack(block, self.depth, None, self.scan, self.remat)
        self.head_dense = Dense(width, axes=("embed", None), kernel_init=normal(0.02), dtype=dtype)
        self.head_norm = LayerNorm(self.eps, dtype)
        zeros = named(nn.initializers.zeros_init(), ("vocab",))
        self.head_bias = self.param("head_bias", zeros, (self.vocab_size,), jnp.float32)

    def __call__(
        self,
        tokens: jax.Array,
        memory: jax.Array | None = None,
        mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        cache: Cache | None = None,
        at: int | jax.Array | None = None,
        train: bool = False,
    ) -> DecoderOutput:
        """`tokens` [B, T] with `mask` [B, T], as `Decoder` takes them; `memory` [B, M, W] with `memory_mask` [B, M].

        With a cache that holds the memory's keys and values, `tokens` alone.
        """
        if tokens.shape[1] > self.length:
            raise ValueError(f"{tokens.shape[1]} tokens, but the decoder has {self.length} positions")
        if self.is_initializing() and self.cross and memory is None:
            memory = jnp.zeros((tokens.shape[0], 1, self.memory_width or self.width), self.dtype)
        if self.cross and memory is None and (cache is None or cache.memory_key is None):
            raise ValueError("the decoder attends to a memory; give it, or a cache that holds it")
        seen_memory = memory_mask if cache is None or memory is not None else cache.memory_keep
        if cache is not None and memory is not None:
            seen_memory = jnp.ones(memory.shape[:2], bool) if memory_mask is None else jnp.asarray(memory_mask, bool)
            cache = cache.replace(memory_keep=seen_memory)
        positions = token_positions(tokens.shape, None, mask, cache)
        seen = view(positions, mask, cache=cache)
        shared = Shared(
            mask=seen.mask,
            at=seen.at,
            memory=memory,
            memory_mask=None if seen_memory is None else masks.padding(jnp.asarray(seen_memory, bool)),
        )
        x, cache = self.blocks(self._embed(tokens, positions, train), shared, seen.cache, train=train)
        return DecoderOutput(tokens=x, logits=self.logits(x if at is None else pick(x, at)), cache=cache)

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits [..., V] in float32 of what left the last block [..., D]."""
        y = self.head_norm(activation(self.act)(self.head_dense(x)))
        return self.token_embed.attend(y).astype(jnp.float32) + self.head_bias

    def empty_cache(self, batch: int, length: int, stacked: bool = True) -> Cache:
        """A cache of `length` tokens for each of `batch` texts."""
        head_dim = self.width // self.num_heads
        return empty(self.depth, batch, self.num_heads, length, head_dim, self.dtype, stacked)

    def prefill(self, cache: Cache, **inputs: Any) -> DecoderOutput:
        """A prompt and its memory into an empty cache: logits of the last token, [B, V]."""
        return self(cache=cache, at=-1, **inputs)

    def step(self, tokens: jax.Array, cache: Cache) -> DecoderOutput:
        """One more token [B] for each text: logits [B, V]."""
        return self(tokens[:, None], cache=cache, at=-1)

    def room(self, prompt: int) -> int:
        """How many tokens may follow a prompt of that many."""
        return self.length - prompt

    def _embed(self, tokens: jax.Array, positions: jax.Array, train: bool) -> jax.Array:
        x = self.token_embed(tokens) + self.type_embed(jnp.zeros_like(tokens))
        x = x + jnp.take(self.pos_embed, jnp.clip(positions, 0, self.length - 1), axis=0).astype(self.dtype)
        return constrain(self.drop(self.norm(x), deterministic=not train), ("batch", None, None))


def bert_decoder(*, dtype: Any = "float32", **fields: Any) -> BertDecoder:
    """A `BertDecoder` from plain fields."""
    return call(BertDecoder, dict(fields, dtype=jnp.dtype(dtype)), "model 'bert-decoder'")


_BASE: dict[str, Any] = dict(width=768, depth=12, num_heads=12, mlp_dim=3072)

VARIANTS: dict[str, dict[str, Any]] = {
    # BERT's sizes (arXiv:1810.04805, section 3) with the cross-attention of arXiv:2201.12086
    "base": dict(_BASE, vocab_size=30522),
    "large": dict(width=1024, depth=24, num_heads=16, mlp_dim=4096, vocab_size=30522),
}

TINY: dict[str, Any] = dict(vocab_size=64, length=8, width=32, depth=2, num_heads=2, mlp_dim=48, cross=False)
