"""The Q-Former: learned queries that read a picture, and share their self-attention with a text."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import lookup
from jvlm.core.sharding import constrain
from jvlm.nn.attention import Attention
from jvlm.nn.axes import named
from jvlm.nn.dense import Embed, normal
from jvlm.nn.layers import at_layer
from jvlm.nn.mlp import Mlp
from jvlm.nn.norms import LayerNorm
from jvlm.nn.remat import recomputed, scanned

MASKS = ("bidirectional", "causal", "unimodal")


def joint_mask(kind: str, queries: int, keep: jax.Array) -> jax.Array:
    """Who sees whom among `queries` and the T tokens after them, [B, 1, Q + T, Q + T] (BLIP-2, figure 2).

    `bidirectional` (matching): all see all. `causal` (generation): queries see queries, tokens see the queries and
    what precedes them. `unimodal` (contrast): queries and tokens do not see each other. `keep` [B, T] hides padding.
    """
    lookup(dict.fromkeys(MASKS), kind, "mask of the Q-Former")
    length = queries + keep.shape[1]
    query = jnp.arange(length) < queries
    rows, columns = query[:, None], query[None, :]
    mask = jnp.ones((length, length), bool)
    if kind == "unimodal":
        mask = rows == columns
    elif kind == "causal":
        mask = columns | (~rows & jnp.tril(mask))
    keys = jnp.concatenate([jnp.ones((keep.shape[0], queries), bool), keep.astype(bool)], axis=1)
    return mask[None, None] & keys[:, None, None, :]


class QFormerGroup(nn.Module):
    """`every` layers normalized after each half; the first one's queries attend to `memory` [B, N, D'] as well.

    Queries and tokens share the self-attention and have an MLP each.
    """

    num_heads: int
    mlp_dim: int
    every: int
    act: str
    eps: float
    text: bool
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, queries: int, mask: jax.Array | None, memory: jax.Array | None, train: bool
    ) -> jax.Array:
        def half(name: str, y: jax.Array, fn: Any) -> jax.Array:
            y = y + nn.Dropout(self.dropout, deterministic=not train)(fn(y))
            return LayerNorm(self.eps, self.dtype, name=name)(y)

        def feed(name: str) -> Mlp:
            return Mlp(self.mlp_dim, act=self.act, dtype=self.dtype, name=name)

        for index in range(self.every):
            attn = Attention(self.num_heads, dtype=self.dtype, name=f"attn_{index}")
            x = half(f"norm_attn_{index}", x, lambda y, attn=attn: attn(y, mask=mask))
            query, words = x[:, :queries], x[:, queries:]
            if index == 0 and memory is not None:
                cross = Attention(self.num_heads, dtype=self.dtype, name="cross")
                query = half("norm_cross", query, lambda y, cross=cross: cross(y, memory=memory))
            if queries:
                query = half(f"norm_mlp_{index}", query, feed(f"mlp_{index}"))
            if self.text and words.shape[1]:
                words = half(f"norm_text_{index}", words, feed(f"text_{index}"))
            x = constrain(jnp.concatenate([query, words], axis=1), ("batch", None, None))
        return x


class GroupStack(nn.Module):
    """`group` repeated `count` times, its parameters stacked under `layers`; scanned or unrolled."""

    group: QFormerGroup
    count: int
    scan: bool
    remat: str

    @nn.compact
    def __call__(
        self, x: jax.Array, queries: int, mask: jax.Array | None, memory: jax.Array | None, train: bool
    ) -> jax.Array:
        def body(group: Any, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return group(x, queries, mask, memory, train), None

        if self.scan or self.is_initializing():
            return scanned(body, self.count, self.remat)(self.group.copy(name="layers"), x, None)[0]
        group = self.group.clone(parent=None, name=None)
        rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
        for index in range(self.count):
            keys = {name: jax.random.fold_in(key, index) for name, key in rngs.items()}

            def run_one(params: Any, x: jax.Array, keys: Any = keys) -> Any:
                return group.apply({"params": params}, x, queries, mask, memory, train, rngs=keys)

            x = recomputed(run_one, self.remat)(at_layer(self.variables["params"], index), x)
        return x


class QFormer(nn.Module):
    """BLIP-2's bridge (Li et al., arXiv:2301.12597, section 3.1), a BERT whose every `every`-th layer reads pictures.

    `text`: the branch for tokens, with embeddings of `vocab_size` (None: a bridge for pictures alone). Returns the
    sequence [B, Q + T, D]; without `memory` [B, N, D'] the tokens' alone, [B, T, D].
    """

    num_queries: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    every: int = 2
    vocab_size: int | None = None
    length: int = 512
    pad_id: int = 0
    act: str = "gelu"
    eps: float = 1e-12
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        init = named(normal(0.02), (None, None, "embed"))
        self.queries = self.param("queries", init, (1, self.num_queries, self.width), jnp.float32)
        self.norm = LayerNorm(self.eps, self.dtype)
        self.drop = nn.Dropout(self.dropout)
        if self.vocab_size is not None:
            self.token_embed = Embed(self.vocab_size, self.width, dtype=self.dtype)
            table = named(normal(0.02), (None, "embed"))
            self.pos_embed = self.param("pos_embed", table, (self.length, self.width), jnp.float32)
        group = QFormerGroup(
            num_heads=self.num_heads, mlp_dim=self.mlp_dim, every=self.every, act=self.act, eps=self.eps,
            text=self.vocab_size is not None, dropout=self.dropout, dtype=self.dtype, parent=None,
        )  # fmt: skip
        if self.depth % self.every:
            raise ValueError(f"{self.depth} layers are no multiple of {self.every}")
        self.blocks = GroupStack(group, self.depth // self.every, self.scan, self.remat)

    def __call__(
        self,
        memory: jax.Array | None = None,
        tokens: jax.Array | None = None,
        mask: jax.Array | None = None,
        kind: str = "bidirectional",
        train: bool = False,
    ) -> jax.Array:
        """`kind` is one of MASKS; `mask` [B, T] is False for padding, by default where a token is `pad_id`."""
        given = memory if memory is not None else tokens
        assert given is not None
        parts, batch = [], given.shape[0]
        keep = jnp.ones((batch, 0), bool)
        if memory is not None:
            parts.append(jnp.broadcast_to(self.queries.astype(self.dtype), (batch, *self.queries.shape[1:])))
        if tokens is not None:
            keep = tokens != self.pad_id if mask is None else mask
            parts.append(self.embed(tokens))
        queries = 0 if memory is None else self.num_queries
        x = self.drop(self.norm(jnp.concatenate(parts, axis=1)), deterministic=not train)
        return self.blocks(x, queries, joint_mask(kind, queries, keep), memory, train)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Embeddings [B, T, D] of `tokens` [B, T]."""
        if self.vocab_size is None:
            raise ValueError("this Q-Former reads no text")
        if tokens.shape[1] > self.length:
            raise ValueError(f"{tokens.shape[1]} tokens, but the Q-Former has {self.length} positions")
        return self.token_embed(tokens) + self.pos_embed[: tokens.shape[1]].astype(self.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """Products [..., V] of `x` [..., D] with the embeddings of words."""
        return self.token_embed.attend(x)
