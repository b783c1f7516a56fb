"""Beam search in one program, with the finished texts kept beside those that go on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jvlm.core.types import Leaf
from jvlm.generate.decoding import mark
from jvlm.generate.sampling import Sampling, penalize
from jvlm.nn.cache import take_rows

_NEVER = -1.0e9


class Beams(struct.PyTreeNode):
    """`tokens` [B, K, N] and `scores` [B, K] of K texts that go on; `best` [B, K, N], `best_scores` and `best_length`
    [B, K] of those that ended, `full` [B, K] where one did; `open` [B] where a better one may still come.
    """

    cache: Leaf
    logits: Leaf
    seen: Leaf
    tokens: Leaf
    scores: Leaf
    best: Leaf
    best_scores: Leaf
    best_length: Leaf
    full: Leaf
    open: Leaf
    count: Leaf
    exhausted: Leaf


def _pick(x: jax.Array, at: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1)


def _expand(
    beams: Beams, how: Sampling, ends: jax.Array, limit: jax.Array, length_penalty: jax.Array, early: bool
) -> tuple[Beams, jax.Array, jax.Array]:
    """The next token of every beam: the beams after it, which beam each came from, and its token."""
    batch, k, _ = beams.tokens.shape
    vocab = beams.logits.shape[-1]
    logs = penalize(jax.nn.log_softmax(beams.logits, axis=-1), beams.seen, how.penalty)
    total = logs.reshape(batch, k, vocab) + beams.scores[:, :, None]
    # As many that one of each beam may end in each way and K still go on.
    tops, at = jax.lax.top_k(total.reshape(batch, -1), max(2, 1 + ends.shape[0]) * k)
    parent, token = at // vocab, (at % vocab).astype(jnp.int32)
    texts = _pick(beams.tokens, parent)
    texts = jax.lax.dynamic_update_slice_in_dim(texts, token[:, :, None], beams.count, axis=2)
    ended = (token[:, :, None] == ends).any(-1) | (beams.count + 1 >= limit)

    scores, on = jax.lax.top_k(jnp.where(ended, tops + _NEVER, tops), k)
    finished = ended & (jnp.arange(tops.shape[1]) < k)
    barred = ~beams.open[:, None] | ~finished
    if early:
        barred = barred | beams.full.all(1, keepdims=True)
    length = (beams.count + 1).astype(jnp.float32)
    value = tops / length**length_penalty + jnp.where(barred, _NEVER, 0.0)
    best_scores, order = jax.lax.top_k(jnp.concatenate([beams.best_scores, value], axis=1), k)
    lengths = jnp.broadcast_to(beams.count + 1, token.shape)
    best_length = _pick(jnp.concatenate([beams.best_length, lengths], axis=1), order)
    full = _pick(jnp.concatenate([beams.full, finished], axis=1), order)

    worst = jnp.where(full, best_scores.min(1, keepdims=True), _NEVER)
    possible = scores[:, :1] / length**length_penalty
    beams = beams.replace(
        tokens=_pick(texts, on),
        scores=scores,
        best=_pick(jnp.concatenate([beams.best, texts], axis=1), order),
        best_scores=best_scores,
        best_length=best_length,
        full=full,
        open=beams.open & (possible > worst).any(1),
        count=beams.count + 1,
        exhausted=ended.all(),
    )
    return beams, _pick(parent, on), _pick(token, on)


@functools.partial(jax.jit, static_argnames=("model", "slots", "room", "stacked", "num_beams", "early"))
def search(
    model: Any,
    variables: Any,
    inputs: Any,
    how: Sampling,
    ends: Int[Array, "E"],
    limit: Int[Array, ""],
    length_penalty: Float[Array, ""],
    *,
    num_beams: int,
    early: bool,
    slots: int,
    room: int,
    stacked: bool,
) -> tuple[Int[Array, "B N"], Int[Array, "B"]]:
    """The best text of each prompt by sum of log-probabilities over length^`length_penalty`: (tokens, their number).

    `inputs`, `ends`, `slots` and `room` as `decoding.start` takes them, at most `limit` [] tokens. `early` stops as
    soon as `num_beams` texts have ended; otherwise when no beam can become better than those at its present length.
    """
    batch = jax.tree.leaves(inputs)[0].shape[0]
    out = model.apply(variables, model.empty_cache(batch, slots, stacked), **inputs, method="prefill")
    rows = jnp.repeat(jnp.arange(batch), num_beams)
    seen = None
    if how.penalty is not None:
        seen = jnp.zeros(out.logits.shape, bool)
        if model.continues and inputs.get("tokens") is not None:
            seen = mark(seen, inputs["tokens"], inputs.get("mask", True))
        seen = seen[rows]
    texts = jnp.zeros((batch, num_beams, room), jnp.int32)
    never = jnp.full((batch, num_beams), _NEVER)
    beams = Beams(
        cache=take_rows(out.cache, rows),
        logits=out.logits[rows],
        seen=seen,
        tokens=texts,
        scores=never.at[:, 0].set(0.0),  # the beams are still alike: only the first may branch
        best=texts,
        best_scores=never,
        best_length=jnp.zeros((batch, num_beams), jnp.int32),
        full=jnp.zeros((batch, num_beams), bool),
        open=jnp.ones(batch, bool),
        count=jnp.zeros((), jnp.int32),
        exhausted=jnp.zeros((), bool),
    )

    def running(beams: Beams) -> jax.Array:
        go = beams.open.any() & ~beams.exhausted
        return go & ~beams.full.all() if early else go

    def body(beams: Beams) -> Beams:
        beams, parent, token = _expand(beams, how, ends, limit, length_penalty, early)
        rows = (parent + jnp.arange(batch)[:, None] * num_beams).reshape(-1)
        # The last tokens need not be read.
        return jax.lax.cond(running(beams), lambda: _read(beams, rows, token.reshape(-1)), lambda: beams)

    def _read(beams: Beams, rows: jax.Array, token: jax.Array) -> Beams:
        out = model.apply(variables, token, take_rows(beams.cache, rows, memory=False), method="step")
        seen = None if beams.seen is None else mark(beams.seen[rows], token[:, None])
        return beams.replace(cache=out.cache, logits=out.logits, seen=seen)

    beams = jax.lax.while_loop(running, body, beams)
    return beams.best[:, 0], beams.best_length[:, 0]
