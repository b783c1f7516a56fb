"""The ring losses as differentiable functions of global arrays: local passes under `shard_map`, joined by a
custom VJP."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jvlm.losses import ring_sigmoid, ring_softmax
from jvlm.losses.ring_schedule import Ring
from jvlm.losses.similarity import Similarity

# Any: trees of specs take the place of trees of arrays.
SAME: Any = PartitionSpec()


@dataclass(frozen=True)
class Spread:
    """Where and how a loss runs: the ring, its mesh (None: one device) and the axes that split the batch."""

    ring: Ring
    mesh: Mesh | AbstractMesh | None
    axes: tuple[str, ...]
    similarity: Similarity
    dot_dtype: Any

    @property
    def split(self) -> Any:
        return PartitionSpec(self.axes)

    def run(self, local: Callable, arguments: tuple, in_specs: tuple, out_specs: Any) -> Any:
        """`local(ring, similarity, dot_dtype, *arguments)` on every device."""
        function = partial(local, self.ring, self.similarity, self.dot_dtype)
        if self.mesh is None:
            return function(*arguments)
        # check_vma=False: the local passes sum over the ring themselves and are not differentiated.
        mapped = jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return mapped(*arguments)


def _sigmoid(spread: Spread, zimg, ztxt, scale, bias, labels, weights) -> jax.Array:
    arguments = (zimg, ztxt, scale, bias, labels, weights)
    split = spread.split
    return spread.run(ring_sigmoid.sigmoid_value, arguments, (split, split, SAME, SAME, split, split), SAME)


def _sigmoid_forward(spread: Spread, zimg, ztxt, scale, bias, labels, weights):
    arguments = (zimg, ztxt, scale, bias, labels, weights)
    split = spread.split
    in_specs = (split, split, SAME, SAME, split, split)
    out_specs = (SAME, ring_sigmoid.Gradients(split, split, SAME, SAME))
    loss, grads = spread.run(ring_sigmoid.sigmoid_value_and_gradients, arguments, in_specs, out_specs)
    return loss, (grads, scale)


def _sigmoid_backward(spread: Spread, saved, cotangent):
    grads, scale = saved
    factor = cotangent * scale
    return (factor * grads.zimg, factor * grads.ztxt, cotangent * grads.scale, cotangent * grads.bias, None, None)


def _softmax_pass(spread: Spread, zimg, ztxt, scale, labels, weights):
    split = spread.split
    in_specs = (split, split, SAME, split, split)
    arguments = (zimg, ztxt, scale, labels, weights)
    return spread.run(ring_softmax.softmax_value, arguments, in_specs, (SAME, split, split))


def _softmax(spread: Spread, zimg, ztxt, scale, labels, weights) -> jax.Array:
    return _softmax_pass(spread, zimg, ztxt, scale, labels, weights)[0]


def _softmax_forward(spread: Spread, zimg, ztxt, scale, labels, weights):
    loss, rows, columns = _softmax_pass(spread, zimg, ztxt, scale, labels, weights)
    return loss, (zimg, ztxt, scale, labels, weights, rows, columns)


def _softmax_backward(spread: Spread, saved, cotangent):
    split = spread.split
    in_specs = (split, split, SAME, split, split, split, split)
    out_specs = ring_softmax.Gradients(split, split, SAME)
    grads = spread.run(ring_softmax.softmax_gradients, saved, in_specs, out_specs)
    factor = cotangent * saved[2]
    return (factor * grads.zimg, factor * grads.ztxt, cotangent * grads.scale, None, None)


_sigmoid_vjp = jax.custom_vjp(_sigmoid, nondiff_argnums=(0,))
_sigmoid_vjp.defvjp(_sigmoid_forward, _sigmoid_backward)
_softmax_vjp = jax.custom_vjp(_softmax, nondiff_argnums=(0,))
_softmax_vjp.defvjp(_softmax_forward, _softmax_backward)

ring_sigmoid_sum = jax.jit(_sigmoid_vjp, static_argnums=0)
"""(spread, zimg, ztxt, scale, bias, labels | None, weights) -> loss sum, all float32 and global."""

ring_softmax_sum = jax.jit(_softmax_vjp, static_argnums=0)
"""(spread, zimg, ztxt, scale, labels | None, weights) -> loss sum, all float32 and global."""
