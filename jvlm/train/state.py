"""The training state: everything a checkpoint holds besides the position in the data."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jvlm.core.sharding import Rules, shard_like, shard_params
from jvlm.core.types import Batch, Leaf, Params
from jvlm.nn.axes import split, split_shapes
from jvlm.tasks import Task
from jvlm.train.guard import Guard
from jvlm.transforms.adapter_method import Method
from jvlm.transforms.adapters import build_leaves
from jvlm.transforms.freeze import partition


class TrainState(struct.PyTreeNode):
    """`params` are trained, `frozen` are not (each None where the other has a leaf), `state` is carried.

    `average` is the exponential moving average of `params`, or None. `guard` watches the loss.
    """

    step: Leaf
    params: Leaf
    frozen: Leaf
    state: Leaf
    opt_state: Leaf
    average: Leaf
    guard: Leaf


def task_variables(task: Task, batch: Batch) -> tuple[Params, Params, Params]:
    """(parameters, state, names of the parameters' axes), as shapes, for a batch of shapes."""
    shapes, names = split_shapes(task.init, jax.random.key(0), batch)
    return shapes.params, shapes.state, names.params


def initial_state(
    task: Task,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    rng: jax.Array,
    *,
    frozen: tuple[str, ...] = (),
    quantization: dict[str, Any] | None = None,
    adapter: Method | None = None,
    average: bool = False,
    window: int = 128,
) -> TrainState:
    """A fresh state for `batch` (shapes suffice), its kernels quantized and `adapter` attached.

    Trace it under jit with `state_shardings`.
    """
    example = {key: jnp.zeros(value.shape, value.dtype) for key, value in batch.items()}
    variables = task.init(rng, example)
    whole = build_leaves(split(variables.params)[0], quantization, adapter, jax.random.fold_in(rng, 1))
    params, held = partition(whole, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=held,
        state=split(variables.state)[0],
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if average else None,
        guard=Guard.create(window),
    )


def state_shardings(abstract: TrainState, names: Params, mesh: Mesh, rules: Rules) -> Any:
    """The sharding of every array of `abstract`: parameters by their names, the rest by likeness."""
    whole: Any = NamedSharding(mesh, PartitionSpec())
    params = shard_params(abstract.params, names, mesh, rules)
    held = shard_params(abstract.frozen, names, mesh, rules)
    return TrainState(
        step=whole,
        params=params,
        frozen=held,
        state=jax.tree.map(lambda _: whole, abstract.state),
        opt_state=shard_like(abstract.opt_state, abstract.params, params, mesh),
        average=None if abstract.average is None else params,
        guard=jax.tree.map(lambda _: whole, abstract.guard),
    )
