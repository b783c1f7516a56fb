"""One training step, as one compiled program: gradients, guard, update, average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jvlm.core import leaves
from jvlm.core.types import Batch, Metrics
from jvlm.tasks import Task
from jvlm.tasks.base import split_batch
from jvlm.train.state import TrainState

StepFn = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    micro_batches: int = 1,
    average_decay: float | None = None,
    sigmas: float = 6.0,
    wide_gradients: bool = False,
) -> StepFn:
    """The pure function `(state, batch, seed key) -> (state, metrics)`; jit it with the state donated.

    A refused step (see `Guard.accepts`) leaves parameters, optimizer, model state and average as they were. The
    average's decay is at most (1 + step) / (10 + step). `wide_gradients`: see `leaves.wide_gradients`. Metrics: `loss`,
    `grad_norm`, `accepted` (0 or 1), `skipped`, `skipped_in_row` and the task's own.
    """

    def step(state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(seed, state.step)
        with leaves.wide_gradients(wide_gradients):
            out = task.grads(state.params, state.frozen, state.state, split_batch(batch, micro_batches), key)
        norm = optax.tree.norm(out.grads)
        accepted = state.guard.accepts(out.loss, norm, sigmas)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)

        updates, opt_state = optimizer.update(out.grads, state.opt_state, state.params)
        params = keep(optax.apply_updates(state.params, updates), state.params)
        average = state.average
        if average is not None and average_decay is not None:
            # A short run would otherwise average over its start: the decay rises from 0.1 to its value.
            decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
            average = keep(optax.incremental_update(params, average, 1.0 - decay), average)
        guard = state.guard.record(out.loss, accepted)
        metrics = dict(
            out.metrics,
            loss=out.loss,
            grad_norm=norm,
            accepted=accepted.astype(jnp.int32),
            skipped=guard.skipped,
            skipped_in_row=guard.skipped_in_row,
        )
        return state.replace(
            step=state.step + 1,
            params=params,
            state=keep(out.state, state.state),
            opt_state=keep(opt_state, state.opt_state),
            average=average,
            guard=guard,
        ), metrics

    return step
