"""Multinomial logistic regression with an L2 penalty, solved by L-BFGS over rows cut across a mesh."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Float32, Integer

from jvlm.core.sharding import BATCH_AXES, batch_shards
from jvlm.evals.placement import local_rows

Carry = tuple[Any, optax.OptState, jax.Array, jax.Array]
ROWS = 16384
"""Rows whose logits exist at once."""


class Logistic(NamedTuple):
    """`kernel` [E, c] and `bias` [c] of the logits; the largest entry of the gradient at the end, over that at zero."""

    kernel: np.ndarray
    bias: np.ndarray
    gradient: float
    steps: int

    def logits(self, z: Float[np.ndarray, "n E"]) -> Float[np.ndarray, "n c"]:
        return z @ self.kernel + self.bias


def fit_logistic(
    z: Float32[np.ndarray, "n E"],
    y: Integer[np.ndarray, "n"],
    classes: int,
    c: float,
    mesh: Mesh,
    *,
    start: Logistic | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 1000,
    rows: int = ROWS,
) -> Logistic:
    """Minimizes `mean(cross entropy) + |kernel|^2 / (2 c n)`; the bias is not penalized.

    That is `c * sum(cross entropy) + |kernel|^2 / 2` over `c n`, so `c` is scikit-learn's `C`. Ends when no entry of
    the gradient is above `tolerance` times the largest at zero, or after `max_steps` (see `gradient`).
    """
    # The bias takes up any shift of the embeddings, which lie in a narrow cone: the same optimum, far better
    # conditioned around their mean.
    mean = z.mean(axis=0)
    z = z - mean
    shards = batch_shards(mesh)
    extent = -(-min(len(z), rows) // shards) * shards
    blocks = -(-len(z) // extent)
    sharding = NamedSharding(mesh, PartitionSpec(None, tuple(a for a in BATCH_AXES if mesh.shape[a] > 1) or None))
    mine = local_rows(mesh, extent)

    def put(x: np.ndarray) -> jax.Array:
        x = np.pad(x, [(0, blocks * extent - len(x)), *[(0, 0)] * (x.ndim - 1)])
        local = x.reshape(blocks, extent, *x.shape[1:])[:, mine]
        return jax.make_array_from_process_local_data(sharding, local)  # [blocks, rows, ...]

    weight = np.full(len(z), 1 / len(z), np.float32)
    zeros = (np.zeros((z.shape[1], classes), np.float32), np.zeros(classes, np.float32))
    begin = zeros if start is None else (start.kernel, (start.bias + mean @ start.kernel).astype(np.float32))
    first = jax.device_put(begin, NamedSharding(mesh, PartitionSpec()))
    (kernel, bias), gradient, steps = _solve(
        first, put(z), put(y.astype(np.int32)), put(weight), 1 / (c * len(z)), tolerance, max_steps=max_steps
    )
    kernel = np.asarray(kernel)
    return Logistic(kernel, np.asarray(bias) - mean @ kernel, float(gradient), int(steps))


@partial(jax.jit, static_argnames="max_steps")
def _solve(
    first: tuple[jax.Array, jax.Array],
    z: jax.Array,
    y: jax.Array,
    weight: jax.Array,
    penalty: jax.Array,
    tolerance: jax.Array,
    max_steps: int,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array, jax.Array]:
    def objective(params: tuple[jax.Array, jax.Array]) -> jax.Array:
        kernel, bias = params

        @jax.checkpoint
        def add(total: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            zb, yb, wb = block
            logits = jnp.matmul(zb, kernel, precision="highest") + bias
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, yb)
            return total + (loss * wb).sum(), None

        total, _ = jax.lax.scan(add, jnp.zeros(()), (z, y, weight))
        return total + 0.5 * penalty * jnp.square(kernel).sum()

    def largest(tree: optax.Updates) -> jax.Array:
        return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]).max()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)
    scale = largest(jax.grad(objective)(jax.tree.map(jnp.zeros_like, first)))

    def step(carry: Carry) -> Carry:
        params, state, _, count = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=objective)
        params = optax.apply_updates(params, updates)
        return params, state, largest(optax.tree.get(state, "grad")), count + 1

    def going(carry: Carry) -> jax.Array:
        return (carry[2] > tolerance * scale) & (carry[3] < max_steps)

    start = (first, optimizer.init(first), jnp.asarray(jnp.inf), jnp.zeros((), jnp.int32))
    params, _, gradient, count = jax.lax.while_loop(going, step, start)
    return params, gradient / scale, count
