"""What differs between trainings: a Task, and the accumulation of gradients that most tasks share."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jvlm.core.leaves import keyed
from jvlm.core.types import Batch, Grads, Loss, Params, Predict, Variables
from jvlm.transforms.freeze import combine

LossFn = Callable[[Params, Params, Batch, jax.Array], Loss]


@runtime_checkable
class Task(Protocol):
    """A training as four pure functions. `params` passed to `grads` may miss frozen leaves, given in `frozen`.

    `batches` is a batch whose arrays have a leading axis of micro-batches [K, B, ...].
    """

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        """Boxed parameters and state (`nn/axes.py`) for arrays shaped as `batch`."""
        ...

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        """Sum and weight of the loss of one batch."""
        ...

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        """Gradient of the mean loss over all micro-batches with respect to `params`."""
        ...

    def predict_fns(self) -> dict[str, Predict]:
        """What evaluators may call, each `(variables, *arrays) -> arrays`."""
        ...


@runtime_checkable
class Shaped(Protocol):
    """A task whose batches hold other arrays than what its model is called with."""

    def shapes(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a batch, from those that the model's call takes."""
        ...


def split_batch(batch: Batch, micro_batches: int) -> dict[str, jax.Array]:
    """Arrays [B, ...] as [K, B / K, ...], each micro-batch taking every K-th sample.

    A strided split leaves every sample on the device that holds it; contiguous parts would not.
    """

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // micro_batches, micro_batches, *x.shape[1:]), 0, 1)

    return {key: split(value) for key, value in batch.items()}


def accumulate(loss_fn: LossFn, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
    """Gradient of sum(losses) / sum(weights) over micro-batches, one in memory at a time; state is threaded through.

    The random key of a micro-batch is `fold_in(rng, its index)`; the weight leaves draw from it, too.
    """
    count = next(iter(batches.values())).shape[0]

    def objective(trained: Params, state: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Loss]:
        loss = loss_fn(keyed(combine(trained, frozen), key), state, batch, key)
        return loss.sum, loss

    def one(carry: tuple[Any, ...], item: tuple[Batch, jax.Array]) -> tuple[tuple[Any, ...], Any]:
        grads, total, weight, state = carry
        batch, index = item
        (_, loss), new = jax.value_and_grad(objective, has_aux=True)(
            params, state, batch, jax.random.fold_in(rng, index)
        )
        grads = jax.tree.map(jnp.add, grads, new)
        return (grads, total + loss.sum, weight + loss.weight, loss.state), loss.metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    start = (zeros, jnp.zeros(()), jnp.zeros(()), state)
    if count == 1:
        batch = {key: value[0] for key, value in batches.items()}
        (grads, total, weight, state), metrics = one(start, (batch, jnp.zeros((), jnp.int32)))
    else:
        (grads, total, weight, state), metrics = jax.lax.scan(one, start, (dict(batches), jnp.arange(count)))
        metrics = jax.tree.map(lambda x: x.mean(0), metrics)
    weight = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
    return Grads(jax.tree.map(lambda g: g / weight, grads), total / weight, state, metrics)
