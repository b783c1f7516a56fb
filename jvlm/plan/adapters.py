"""What a run trains and what a step of it holds in memory, from shapes alone: nothing of the model is allocated."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jvlm.core import sharding
from jvlm.core.tree import count
from jvlm.train.setup import Run, setup
from jvlm.train.state import task_variables
from jvlm.transforms.adapters import attach, frozen_paths
from jvlm.transforms.freeze import combine, partition
from jvlm.transforms.methods import make_method


class Accounting(NamedTuple):
    """Scalars and bytes of one step over all chips together, as if nothing were stored twice.

    `activations` are what the forward pass keeps for the backward pass (the residuals of `jax.vjp`, recomputation as
    configured), for one micro-batch and without the parameters among them. `step` is the sum of the other bytes: what
    is certain to be held at once, to which a compiler adds its temporaries (`jvlm plan` compiles and tells).
    """

    trainable: int
    total: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    step: int


def parameters(params: Any, fields: Mapping[str, Any]) -> tuple[int, int]:
    """(trainable, total) scalars of a tree of shapes with the adapter of `fields`; the total is that of the base."""
    method = make_method(fields)
    whole = jax.eval_shape(lambda params, key: attach(params, method, key), params, jax.random.key(0))
    return count(partition(whole, list(frozen_paths(whole, method)))[0]), count(params)


def storage(tree: Any) -> int:
    """Bytes of a tree of arrays or shapes; four bits count as four bits."""
    return sum(-(-leaf.size * jax.dtypes.itemsize_bits(leaf.dtype) // 8) for leaf in jax.tree.leaves(tree))


def account(config: ConfigDict) -> Accounting:
    """The accounting of a configuration, whatever mesh it names: this machine's devices do not matter."""
    with config.unlocked(), config.ignore_type():
        config.mesh = dict(preset="dp", shape=dict(data=1))
    run = setup(config, abstract=True, devices=jax.devices()[:1])
    trained, frozen = partition(run.params, list(run.frozen))
    held = storage(run.params)
    gradients = storage(trained)
    optimizer = storage(jax.eval_shape(run.optimizer.init, trained))
    if run.config.get("average") is not None:
        optimizer += gradients
    kept = _residuals(run, trained, frozen)
    return Accounting(
        trainable=count(trained),
        total=count(run.params),
        parameters=held,
        gradients=gradients,
        optimizer=optimizer,
        activations=kept,
        step=held + gradients + optimizer + kept,
    )


def _residuals(run: Run, trained: Any, frozen: Any) -> int:
    parts = run.config.get("micro_batches", 1)
    batch = {key: jax.ShapeDtypeStruct((x.shape[0] // parts, *x.shape[1:]), x.dtype) for key, x in run.batch.items()}
    _, state, _ = task_variables(run.task, batch)

    def pullback(trained: Any, frozen: Any, state: Any, batch: Any, key: Any) -> Any:
        def value(trained: Any) -> jax.Array:
            return run.task.loss(combine(trained, frozen), state, batch, key).sum

        return jax.vjp(value, trained)[1]

    with sharding.use(run.mesh, run.rules):
        kept = jax.tree.leaves(jax.eval_shape(pullback, trained, frozen, state, batch, jax.random.key(0)))
    own = Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(run.params))
    total = 0
    for leaf in kept:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            continue
        if own[leaf.shape, leaf.dtype] > 0:
            own[leaf.shape, leaf.dtype] -= 1  # a parameter that the backward pass needs, not a copy of it
        else:
            total += storage(leaf)
    return total
