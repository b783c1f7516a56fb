"""T5: an encoder, or an encoder and a decoder that attends to it, with biases by distance instead of positions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import call
from jvlm.core.sharding import constrain
from jvlm.models.decoder import DecoderOutput
from jvlm.nn import masks
from jvlm.nn.cache import Cache, empty
from jvlm.nn.decoder_block import DecoderBlock, Shared
from jvlm.nn.decoder_masks import token_positions, view
from jvlm.nn.decoder_stack import DecoderStack
from jvlm.nn.dense import Dense, Embed
from jvlm.nn.norms import RMSNorm
from jvlm.nn.pooling import pick
from jvlm.nn.relative import buckets


class T5(nn.Module):
    """T5 (Raffel et al., arXiv:1910.10683); version 1.1 and Flan-T5 (arXiv:2210.11416) are `gated` and not `tied`.

    `decoder_depth` 0 is the encoder alone. `scaled_head` multiplies what meets a tied head by width^-0.5. `length` is
    what the released models were trained at; nothing depends on it.
    """

    vocab_size: int
    width: int
    depth: int
    decoder_depth: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    length: int = 512
    act: str = "relu"
    gated: bool = False
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    tied: bool = True
    scaled_head: bool = True
    start_id: int = 0
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    continues = False
    """A text starts anew; the prompt is what it is about."""

    def setup(self) -> None:
        self.token_embed = Embed(self.vocab_size, self.width, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.encoder = self._stack(self.depth, cross=False)
        self.encoder_bias = Embed(self.num_buckets, self.num_heads, (None, "heads"))
        self.encoder_norm = RMSNorm(self.eps, dtype=self.dtype)
        if self.decoder_depth:
            self.decoder = self._stack(self.decoder_depth, cross=True)
            self.decoder_bias = Embed(self.num_buckets, self.num_heads, (None, "heads"))
            self.decoder_norm = RMSNorm(self.eps, dtype=self.dtype)
            if not self.tied:
                self.head = Dense(self.vocab_size, axes=("embed", "vocab"), use_bias=False, dtype=self.dtype)

    def _stack(self, depth: int, cross: bool) -> DecoderStack:
        block = DecoderBlock(
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            scale=1.0,
            act=self.act,
            gated=self.gated,
            eps=self.eps,
            cross=cross,
            dropout=self.dropout,
            dtype=self.dtype,
            parent=None,
        )
        return DecoderStack(block, depth, None, self.scan, self.remat)

    def __call__(
        self,
        tokens: jax.Array | None = None,
        targets: jax.Array | None = None,
        mask: jax.Array | None = None,
        cache: Cache | None = None,
        at: int | jax.Array | None = None,
        train: bool = False,
    ) -> DecoderOutput:
        """`tokens` [B, M] to encode, with `mask` [B, M] False for padding; `targets` [B, T] as the decoder reads them.

        Without `targets` the output is the encoder's. With a cache that holds what was encoded, `targets` alone. `at`
        asks for the logits of one token, as `Decoder` does.
        """
        memory = None if tokens is None else self.encode(tokens, mask, train)
        if self.is_initializing() and self.decoder_depth and targets is None:
            targets = tokens
        if targets is None:
            assert memory is not None
            return DecoderOutput(tokens=memory, logits=None)
        keep = mask if cache is None or memory is not None else cache.memory_keep
        if cache is not None and memory is not None:
            keep = jnp.ones(memory.shape[:2], bool) if mask is None else jnp.asarray(mask, bool)
            cache = cache.replace(memory_keep=keep)
        positions = token_positions(targets.shape, None, None, cache)
        seen = view(positions, cache=cache)
        keys = positions if seen.cache is None else seen.cache.positions
        shared = Shared(
            mask=seen.mask,
            bias=self._bias(self.decoder_bias, positions[:1], keys[:1], bidirectional=False),
            at=seen.at,
            memory=memory,
            memory_mask=None if keep is None else masks.padding(jnp.asarray(keep, bool)),
        )
        x = self.drop(self.token_embed(targets), deterministic=not train)
        x, cache = self.decoder(constrain(x, ("batch", None, None)), shared, seen.cache, train=train)
        x = self.drop(self.decoder_norm(x), deterministic=not train)
        return DecoderOutput(tokens=x, logits=self._logits(x if at is None else pick(x, at)), cache=cache)

    def encode(self, tokens: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """The encoder's output [B, M, D] of `tokens` [B, M]."""
        x = constrain(self.drop(self.token_embed(tokens), deterministic=not train), ("batch", None, None))
        positions = jnp.arange(tokens.shape[1])[None]
        shared = Shared(
            mask=None if mask is None else masks.padding(jnp.asarray(mask, bool)),
            bias=self._bias(self.encoder_bias, positions, positions, bidirectional=True),
        )
        x, _ = self.encoder(x, shared, train=train)
        return self.drop(self.encoder_norm(x), deterministic=not train)

    def empty_cache(self, batch: int, length: int, stacked: bool = True) -> Cache:
        """A cache of `length` targets for each of `batch` texts."""
        return empty(self.decoder_depth, batch, self.num_heads, length, self.head_dim, self.dtype, stacked)

    def prefill(self, cache: Cache, tokens: jax.Array, mask: jax.Array | None = None) -> DecoderOutput:
        """Encodes a prompt and reads the start token: logits of the first token, [B, V]."""
        start = jnp.full((tokens.shape[0], 1), self.start_id, jnp.int32)
        return self(tokens, start, mask, cache=cache, at=-1)

    def step(self, tokens: jax.Array, cache: Cache) -> DecoderOutput:
        """One more token [B] for each text: logits [B, V]."""
        return self(targets=tokens[:, None], cache=cache, at=-1)

    def room(self, prompt: int) -> int:
        """How many tokens may be written for a prompt: distances have no end, so as many as it was trained at."""
        return self.length

    def _bias(self, table: Embed, queries: jax.Array, keys: jax.Array, bidirectional: bool) -> jax.Array:
        distance = keys[:, None, :] - queries[:, :, None]
        bucket = buckets(distance, self.num_buckets, self.max_distance, bidirectional)
        return table(bucket).transpose(0, 3, 1, 2)  # [1, H, T, S]

    def _logits(self, x: jax.Array) -> jax.Array:
        if self.scaled_head:
            x = x * self.width**-0.5
        y = self.token_embed.attend(x) if self.tied else self.head(x)
        return y.astype(jnp.float32)


def t5(*, dtype: Any = "float32", **fields: Any) -> T5:
    """A `T5` from plain fields."""
    return call(T5, dict(fields, dtype=jnp.dtype(dtype)), "model 't5'")


def _size(width: int, depth: int, num_heads: int, mlp_dim: int, **fields: Any) -> dict[str, Any]:
    shared: dict[str, Any] = dict(vocab_size=32128, head_dim=64, decoder_depth=depth)
    return shared | dict(width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim) | fields


_V1_1: dict[str, Any] = dict(act="gelu_tanh", gated=True, tied=False, scaled_head=False)

VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:1910.10683, section 3.7
    "small": _size(512, 6, 8, 2048),
    "base": _size(768, 12, 12, 3072),
    "large": _size(1024, 24, 16, 4096),
    # Version 1.1, and Flan-T5 (arXiv:2210.11416, table 2)
    "flan-base": _size(768, 12, 12, 2048, **_V1_1),
    "flan-large": _size(1024, 24, 16, 2816, **_V1_1),
    "flan-xl": _size(2048, 24, 32, 5120, **_V1_1),
    "flan-xxl": _size(4096, 24, 64, 10240, **_V1_1),
    "flan-xxl-encoder": _size(4096, 24, 64, 10240, **_V1_1 | dict(decoder_depth=0)),
}

TINY: dict[str, Any] = dict(
    vocab_size=64, length=8, width=32, depth=2, decoder_depth=2, num_heads=4, head_dim=8, mlp_dim=48, num_buckets=8
)
