"""Token by token with a cache: a prompt is read by one program, the rest is written by another, both compiled once.

A model that can be decoded has the methods `empty_cache`, `prefill` and `step` (`models/decoder.py`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from jvlm.core.types import Leaf
from jvlm.generate.sampling import Sampling, choose


class State(struct.PyTreeNode):
    """Texts in the writing: `tokens` [B, N] of which `count` [] are written, `done` [B] where the end was reached.

    `last` [B] has been chosen and not yet read. `seen` [B, V] marks what a repetition penalty applies to.
    """

    cache: Leaf
    tokens: Leaf
    count: Leaf
    last: Leaf
    done: Leaf
    key: Leaf
    seen: Leaf = None


def mark(seen: Bool[Array, "B V"], tokens: Int[Array, "B T"], keep: Any = True) -> Bool[Array, "B V"]:
    """`seen` with `tokens` in it, where `keep` [B, T] is True; learned tokens, whose ids are negative, left out."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    return seen.at[rows, tokens].max(jnp.broadcast_to(keep, tokens.shape) & (tokens >= 0))


@functools.partial(jax.jit, static_argnames=("model", "slots", "room", "stacked"))
def start(
    model: Any,
    variables: Any,
    inputs: Any,
    how: Sampling,
    ends: Int[Array, "E"],
    key: jax.Array,
    *,
    slots: int,
    room: int,
    stacked: bool,
) -> State:
    """Reads the prompts `inputs` (`tokens` or `embeddings`, and `mask`, padded on the left) and chooses a first token.

    `slots` is the length of the cache, `room` that of the text to be written, `ends` [E] the tokens that end it.
    """
    batch = jax.tree.leaves(inputs)[0].shape[0]
    out = model.apply(variables, model.empty_cache(batch, slots, stacked), **inputs, method="prefill")
    seen = None
    if how.penalty is not None:
        seen = jnp.zeros(out.logits.shape, bool)
        if model.continues and inputs.get("tokens") is not None:
            seen = mark(seen, inputs["tokens"], inputs.get("mask", True))
    token = choose(out.logits, how, jax.random.fold_in(key, 0), seen)
    tokens = jnp.zeros((batch, room), jnp.int32).at[:, 0].set(token)
    return State(
        cache=out.cache,
        tokens=tokens,
        count=jnp.ones((), jnp.int32),
        last=token,
        done=(token[:, None] == ends).any(-1),
        key=key,
        seen=None if seen is None else mark(seen, token[:, None]),
    )


@functools.partial(jax.jit, static_argnames=("model",), donate_argnames=("state",))
def proceed(
    model: Any, variables: Any, state: State, how: Sampling, ends: Int[Array, "E"], limit: Int[Array, ""]
) -> State:
    """Writes until `limit` [] tokens stand, or every text has ended. What a text holds after its end means nothing."""

    def running(state: State) -> jax.Array:
        return (state.count < limit) & ~state.done.all()

    def body(state: State) -> State:
        out = model.apply(variables, state.last, state.cache, method="step")
        token = choose(out.logits, how, jax.random.fold_in(state.key, state.count), state.seen)
        return State(
            cache=out.cache,
            tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, None], state.count, axis=1),
            count=state.count + 1,
            last=token,
            done=state.done | (token[:, None] == ends).any(-1),
            key=state.key,
            seen=None if state.seen is None else mark(state.seen, token[:, None]),
        )

    return jax.lax.while_loop(running, body, state)
