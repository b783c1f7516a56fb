"""How the next token is chosen from logits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jvlm.core.errors import ConfigError
from jvlm.core.types import Leaf

_OFF = jnp.finfo(jnp.float32).min


class Sampling(struct.PyTreeNode):
    """What is done to the logits before a token is drawn, in this order; None is off.

    `penalty` divides the logits of tokens already in the text (negative ones are multiplied; arXiv:1909.05858, section
    4.1). `temperature` None takes the most likely token. `top_k` keeps that many, `top_p` the likeliest that together
    have that probability (arXiv:1904.09751, section 3.1). The values are traced: another one does not compile again.
    """

    temperature: Leaf = None
    top_k: Leaf = None
    top_p: Leaf = None
    penalty: Leaf = None


def sampling(temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, repetition_penalty: float = 1.0) -> Sampling:
    """A `Sampling` from the numbers that a user gives; temperature 0 is greedy. ConfigError for what makes no sense."""
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1 or repetition_penalty <= 0:
        raise ConfigError(
            f"temperature {temperature} and top-k {top_k} are at least 0, top-p {top_p} lies in (0, 1], and the "
            f"repetition penalty {repetition_penalty} is positive"
        )
    drawn = temperature > 0
    return Sampling(
        temperature=float(temperature) if drawn else None,
        top_k=int(top_k) if drawn and top_k else None,
        top_p=float(top_p) if drawn and top_p < 1 else None,
        penalty=float(repetition_penalty) if repetition_penalty != 1 else None,
    )


def penalize(logits: Float[Array, "B V"], seen: Bool[Array, "B V"] | None, penalty: Any) -> Float[Array, "B V"]:
    """Logits of the tokens that were `seen` made less likely by the factor `penalty`; None: as they are."""
    if penalty is None or seen is None:
        return logits
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def filtered(logits: Float[Array, "B V"], how: Sampling) -> Float[Array, "B V"]:
    """Logits over the temperature, those that `top_k` and `top_p` leave out at the lowest float."""
    logits = logits / (1.0 if how.temperature is None else how.temperature)
    if how.top_k is None and how.top_p is None:
        return logits
    order = -jnp.sort(-logits, axis=-1)
    if how.top_k is not None:
        last = jnp.clip(jnp.asarray(how.top_k) - 1, 0, logits.shape[-1] - 1)
        floor = jnp.take(order, last, axis=-1)[:, None]
        logits = jnp.where(logits < floor, _OFF, logits)
        order = jnp.where(order < floor, _OFF, order)
    if how.top_p is not None:
        probability = jax.nn.softmax(order, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        kept = jnp.maximum((before < how.top_p).sum(-1, keepdims=True), 1)
        logits = jnp.where(logits < jnp.take_along_axis(order, kept - 1, axis=-1), _OFF, logits)
    return logits


def choose(
    logits: Float[Array, "B V"], how: Sampling, key: jax.Array, seen: Bool[Array, "B V"] | None = None
) -> Int[Array, "B"]:
    """The next token of each text. Each row draws from its own key, so that its neighbours do not matter."""
    logits = penalize(logits, seen, how.penalty)
    if how.temperature is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(logits.shape[0]))
    return jax.vmap(jax.random.categorical)(keys, filtered(logits, how)).astype(jnp.int32)
