"""The decoder-only language model: Llama, Mistral, SmolLM, Qwen2, Gemma, OPT and GPT-2 are fields of one module."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jvlm.core.build import call, lookup
from jvlm.core.errors import ConfigError
from jvlm.core.leaves import learned_rows
from jvlm.core.sharding import constrain
from jvlm.core.types import Leaf
from jvlm.models.decoder_variants import TINY, VARIANTS
from jvlm.nn import rope as rotary
from jvlm.nn.axes import named
from jvlm.nn.cache import Cache, empty
from jvlm.nn.decoder_block import NORMS, DecoderBlock, Shared
from jvlm.nn.decoder_masks import View, token_positions, view
from jvlm.nn.decoder_stack import DecoderStack
from jvlm.nn.dense import Dense, Embed, normal
from jvlm.nn.grouped_attention import softcap
from jvlm.nn.pooling import pick
from jvlm.nn.splash import packed, uses_kernel

__all__ = ["TINY", "VARIANTS", "Decoder", "DecoderOutput", "decoder"]


class DecoderOutput(struct.PyTreeNode):
    """`tokens` [B, T, D], the sequence after the last norm; `logits` [B, T, V] in float32, or [B, V] of the token that
    was asked for; `cache`, the one given with these tokens in it.
    """

    tokens: Leaf
    logits: Leaf
    cache: Leaf = None


class Decoder(nn.Module):
    """A causal transformer (Llama: arXiv:2307.09288; Mistral: 2310.06825; Qwen2: 2407.10671; Gemma: 2403.08295 and
    2408.00118; OPT: 2205.01068; GPT-2: Radford et al. 2019).

    `rope` None means learned positions, of which the first `position_offset` are unused. `window` limits how far back
    a token sees, in the layers where `local` is True (None: in all). `query_scale` is the width whose inverse root
    multiplies the logits (None: `head_dim`). `embed_width` other than `width` puts a product between embedding and
    blocks, and between blocks and head (OPT-350m). `scaled_embed` multiplies embeddings by sqrt(width). `attention` is
    one of `nn.splash.ATTENTIONS`: `splash` holds no logits on a TPU, and wants causal texts, one window, no cache.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    length: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    rope: rotary.Rope | None = rotary.Rope()
    position_offset: int = 0
    window: int | None = None
    local: tuple[bool, ...] | None = None
    norm: str = "rms"
    norm_offset: float = 0.0
    place: str = "pre"
    final_norm: bool = True
    eps: float = 1e-6
    act: str = "silu"
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    query_scale: float | None = None
    attn_softcap: float | None = None
    logit_softcap: float | None = None
    embed_width: int | None = None
    scaled_embed: bool = False
    tied: bool = True
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    attention: str = "einsum"
    dtype: Any = jnp.float32

    continues = True
    """What is written goes on from the prompt."""

    def setup(self) -> None:
        width, dtype = self.embed_width or self.width, self.dtype
        self.token_embed = Embed(self.vocab_size, width, dtype=dtype)
        if self.rope is None:
            shape = (self.length + self.position_offset, self.width)
            self.pos_embed = self.param("pos_embed", named(normal(0.02), (None, "embed")), shape, jnp.float32)
        if width != self.width:
            self.embed_in = Dense(self.width, axes=(None, "embed"), use_bias=False, dtype=dtype)
            self.embed_out = Dense(width, axes=("embed", None), use_bias=False, dtype=dtype)
        self.drop = nn.Dropout(self.dropout)
        block = DecoderBlock(
            num_heads=self.num_heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.heads_width,
            mlp_dim=self.mlp_dim,
            scale=(self.query_scale or self.heads_width) ** -0.5,
            act=self.act,
            gated=self.gated,
            norm=self.norm,
            norm_offset=self.norm_offset,
            place=self.place,
            eps=self.eps,
            cap=self.attn_softcap,
            tiled=self.attention == "splash",
            window=self.window,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            mlp_bias=self.mlp_bias,
            dropout=self.dropout,
            dtype=dtype,
            parent=None,
        )
        self.blocks = DecoderStack(block, self.depth, self.local, self.scan, self.remat)
        if self.final_norm:
            offset = dict(offset=self.norm_offset) if self.norm == "rms" else {}
            self.last_norm = lookup(NORMS, self.norm, "normalization")(eps=self.eps, dtype=dtype, **offset)
        if not self.tied:
            self.head = Dense(self.vocab_size, axes=("embed", "vocab"), use_bias=False, dtype=dtype)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def heads_width(self) -> int:
        return self.head_dim or self.width // self.num_heads

    def __call__(
        self,
        tokens: jax.Array | None = None,
        embeddings: jax.Array | None = None,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        prefix: jax.Array | None = None,
        cache: Cache | None = None,
        at: int | jax.Array | None = None,
        train: bool = False,
        through: Any = None,
        alone: bool = False,
    ) -> DecoderOutput:
        """`tokens` [B, T], or what `embed` made of them [B, T, W].

        `mask` [B, T] is False for padding, on either side. `positions` [B, T] count by default what is not padding,
        after what the cache holds. `segments` [B, T] number the texts packed into a row: give their positions, too.
        Tokens of `prefix` [B, T] are seen also by what precedes them. `at`, one position or one for each text [B],
        asks for the logits of that token only. `through` is called in the blocks' place, with their arguments.
        `alone`: the cache is empty, of which attention then reads nothing; with `at` -1 unrolled blocks may return the
        last token only.
        """
        if (tokens is None) == (embeddings is None):
            raise ValueError("give tokens or embeddings, one of the two")
        x = self.embed(tokens) if tokens is not None else jnp.asarray(embeddings, self.dtype)
        learned = learned_rows(self.variables.get("params", {}))
        if cache is None and self.rope is None and learned + x.shape[1] > self.length:
            raise ValueError(f"{learned + x.shape[1]} tokens, but the decoder has {self.length} positions")
        ordered = alone and prefix is None and positions is None
        positions = token_positions(x.shape[:2], positions, mask, cache)
        tiled = cache is None and self._tiled(prefix, learned)
        if tiled:
            seen, texts = View(), packed(mask, segments)
        else:
            seen = view(positions, mask, segments, prefix, cache, self.window, self.local is not None, learned, alone)
            texts = None
        positions = positions + learned
        turns = None
        if self.rope is not None:
            turns = rotary.angles(self.rope, positions, self.heads_width, self.length)
        shared = Shared(
            mask=seen.mask,
            local=seen.local,
            turns=turns,
            at=seen.at,
            segments=texts,
            alone=alone,
            ordered=ordered,
            tail=alone and isinstance(at, int) and at == -1,
        )
        if self.embed_width not in (None, self.width):
            x = self.embed_in(x)
        if self.rope is None:
            at_table = jnp.clip(positions + self.position_offset, 0, self.pos_embed.shape[0] - 1)
            x = x + jnp.take(self.pos_embed, at_table, axis=0).astype(self.dtype)
        x = constrain(self.drop(x, deterministic=not train), ("batch", "sequence", None))  # [B, T, D]
        run = self.blocks if through is None else through
        x, cache = run(x, shared, seen.cache, train=train)
        if self.final_norm:
            x = self.last_norm(x)
        return DecoderOutput(tokens=x, logits=self.logits(x if at is None else pick(x, at)), cache=cache)

    def _tiled(self, prefix: jax.Array | None, learned: int) -> bool:
        """Whether the blocks attend in tiles; ConfigError where that is asked for and the kernel cannot hide enough."""
        if self.attention == "splash":
            wanted = {
                "layers with windows of their own": self.local is not None,
                "a prefix that sees all of itself": prefix is not None,
                "learned keys before the tokens'": learned > 0,
            }
            for what, given in wanted.items():
                if given:
                    raise ConfigError(f"attention 'splash' does not take {what}; set attention = 'einsum'")
        return uses_kernel(self.attention)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Embeddings [B, T, W] of `tokens` [B, T], as `__call__` takes them."""
        x = self.token_embed(tokens)
        if not self.scaled_embed:
            return x
        # A learned vector, whose id is negative, is what the blocks read.
        return x * jnp.where(tokens < 0, 1.0, math.sqrt(self.width)).astype(self.dtype)[..., None]

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits [..., V] in float32 of what left the last norm [..., D]."""
        if self.embed_width not in (None, self.width):
            x = self.embed_out(x)
        y = self.token_embed.attend(x) if self.tied else self.head(x)
        return softcap(y.astype(jnp.float32), self.logit_softcap)

    def empty_cache(self, batch: int, length: int, stacked: bool = True) -> Cache:
        """A cache of `length` tokens for each of `batch` texts; `stacked` as `DecoderStack` takes it."""
        return empty(self.depth, batch, self.kv_heads, length, self.heads_width, self.dtype, stacked)

    def prefill(self, cache: Cache, **inputs: Any) -> DecoderOutput:
        """A prompt into an empty cache: `inputs` of the call, padded on the left. Logits of the last token, [B, V]."""
        return self(cache=cache, at=-1, alone=True, **inputs)

    def step(self, tokens: jax.Array, cache: Cache) -> DecoderOutput:
        """One more token [B] for each text: logits [B, V]."""
        return self(tokens[:, None], cache=cache, at=-1)

    def resolved(self) -> "Decoder":
        """The same model with every default written out, and the settings of a run put back."""
        return self.clone(
            num_kv_heads=self.kv_heads,
            head_dim=self.heads_width,
            query_scale=self.query_scale or float(self.heads_width),
            embed_width=self.embed_width or self.width,
            scan=True,
            remat="none",
            attention="einsum",
            dropout=0.0,
            dtype=jnp.dtype(jnp.float32),
        )

    def room(self, prompt: int) -> int:
        """How many tokens may follow a prompt of that many."""
        return self.length - prompt


def decoder(*, dtype: Any = "float32", rope: Mapping[str, Any] | None = None, **fields: Any) -> Decoder:
    """A `Decoder` from plain fields; `rope` holds those of `nn.rope.Rope`, or None for learned positions."""
    if fields.get("local") is not None:
        fields["local"] = tuple(bool(x) for x in fields["local"])
    turned = None if rope is None else rotary.rope(rope)
    return call(Decoder, dict(fields, rope=turned, dtype=jnp.dtype(dtype)), "model 'decoder'")
