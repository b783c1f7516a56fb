"""What flows into each kernel over a few real batches, without any model knowing: the recording weight leaf."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jvlm.core import leaves
from jvlm.core.leaves import Leaf, Names
from jvlm.core.tree import flatten, select, unflatten
from jvlm.core.types import Params
from jvlm.transforms.quantize import axis_of, quantizable

PASS_BYTES = 2 << 30
"""Host memory for second moments at a time; more kernels than fit are recorded in further passes over the batches."""


@dataclass
class Moments:
    """Sums over `count` inputs x [in] of one layer's kernel: `gram` x x' [in, in] and `magnitude` |x| [in]."""

    gram: Float[np.ndarray, "in in"]
    magnitude: Float[np.ndarray, "in"]
    count: int


@dataclass(eq=False)
class Recording:
    """Moments by path and layer, filled while a program runs."""

    found: dict[str, dict[int, Moments]] = field(default_factory=dict)

    def add(self, path: str, layer: Any, gram: Any, magnitude: Any, count: int) -> None:
        layers = self.found.setdefault(path, {})
        new = Moments(np.asarray(gram), np.asarray(magnitude), count)
        if old := layers.get(int(layer)):
            new = Moments(old.gram + new.gram, old.magnitude + new.magnitude, old.count + new.count)
        layers[int(layer)] = new


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Recorder(Leaf):
    """A kernel that tells `recording` what it is multiplied by. `layer` [*L] numbers the layers of a stack."""

    kernel: Any
    layer: Any
    path: str = field(metadata=dict(static=True))
    recording: Recording = field(metadata=dict(static=True))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.kernel.shape)

    def materialize(self) -> jax.Array:
        return self.kernel

    def place(self, names: Names, fn: Callable[[Names, Any], Any]) -> "Recorder":
        return Recorder(fn(names, self.kernel), fn(names[:-2], self.layer), self.path, self.recording)

    def matmul(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)

        def add(layer: Any, gram: Any, magnitude: Any) -> None:
            self.recording.add(self.path, layer, gram, magnitude, rows.shape[0])

        jax.debug.callback(add, self.layer, rows.T @ rows, jnp.abs(rows).sum(0))
        return leaves.matmul(x, self.kernel)


def collect(
    apply: Callable[[Params, Any], Any],
    params: Params,
    batches: Sequence[Any],
    patterns: Iterable[str] = ("*kernel",),
    pass_bytes: int = PASS_BYTES,
) -> dict[str, list[Moments]]:
    """Runs `apply(params, batch)` over `batches`; the moments of each dense kernel it multiplies by, layer by layer.

    Scanned and compiled like any forward pass. Kernels of convolutions and those that are never used are not in the
    result. Raises ConfigError for a pattern that matches nothing.
    """
    flat = flatten(params)
    paths = [path for path in select(quantizable(flat), patterns) if _dense(path, flat[path])]
    recording = Recording()
    for chosen in _passes(paths, flat, pass_bytes):
        recorded = {path: _recorder(path, leaf, recording) if path in chosen else leaf for path, leaf in flat.items()}
        run = jax.jit(apply)
        for batch in batches:
            jax.block_until_ready(run(unflatten(recorded), batch))
        jax.effects_barrier()
    return {path: [layers[at] for at in sorted(layers)] for path, layers in recording.found.items()}


def _recorder(path: str, kernel: Any, recording: Recording) -> Recorder:
    lead = kernel.shape[:-2]
    return Recorder(kernel, jnp.arange(np.prod(lead, dtype=int)).reshape(lead), path, recording)


def _dense(path: str, leaf: Any) -> bool:
    return axis_of(path) == -2 and len(leaf.shape) in (2, 3)


def _passes(paths: list[str], flat: Params, limit: int) -> list[set[str]]:
    out: list[set[str]] = []
    room = 0
    for path in paths:
        *lead, extent, _ = flat[path].shape
        size = 4 * extent**2 * int(np.prod(lead, dtype=int))
        if not out or size > room:
            out.append(set())
            room = limit
        out[-1].add(path)
        room -= size
    return out
