"""FLOPs that a model needs, as against those that a program spends: from the trace of the forward pass.

Matrix products and convolutions once forward; backward once for each of their factors that depends on what is trained.
So nothing counts twice for being recomputed, a frozen kernel has no gradient, and a frozen tower no backward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from jvlm.core.types import Batch, Params
from jvlm.plan.products import window_positions
from jvlm.tasks import Task
from jvlm.transforms.freeze import combine

Flags = list[bool]


def model_flops(task: Task, params: Params, frozen: Params, state: Params, batch: Batch) -> int:
    """FLOPs of a training step on `batch`, all chips together; every argument may be a tree of shapes.

    `params` are trained, `frozen` are not (each None where the other has a leaf).
    """

    def forward(params: Params, frozen: Params, state: Params, batch: Batch) -> jax.Array:
        return task.loss(combine(params, frozen), state, batch, jax.random.key(0)).sum

    return training_flops(forward, params, frozen, state, batch)


def training_flops(forward: Callable[..., jax.Array], params: Any, *arguments: Any) -> int:
    """FLOPs of `forward(params, *arguments)`, a scalar, and of its gradient with respect to `params`."""
    closed = jax.make_jaxpr(forward)(params, *arguments)
    # What the loss does not need, such as metrics, a compiler drops too.
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True])
    trained = len(jax.tree.leaves(params))
    active = [place < trained for place, keep in enumerate(used) if keep]
    return _Trace(jaxpr, active).cost([True])[0]


class _Trace:
    """A trace whose arguments depend on trained values or do not: so do its variables, found in one pass forward.

    What a gradient passes, from the results back, is found by `cost`.
    """

    def __init__(self, jaxpr: Any, active: Flags):
        self.jaxpr = jaxpr
        self.active: dict[Any, bool] = dict(zip(jaxpr.invars, active, strict=True))
        self.inner: list[list[_Inner]] = []
        for equation in jaxpr.eqns:
            given = self.flags(equation.invars)
            inner = _inner_traces(equation, given)
            self.inner.append(inner)
            out = (
                [any(flags) for flags in zip(*(i.out() for i in inner))]
                if inner
                else [any(given)] * len(equation.outvars)
            )
            stopped = equation.primitive.name == "stop_gradient"
            for variable, flag in zip(equation.outvars, out, strict=True):
                self.active[variable] = flag and not stopped and _is_real(variable)

    def flags(self, variables: Sequence[Any]) -> Flags:
        return [not isinstance(v, Literal) and self.active.get(v, False) for v in variables]

    def cost(self, wanted: Flags) -> tuple[int, Flags]:
        """FLOPs, given the results whose gradient is wanted; and the arguments to which a gradient passes."""
        reached: dict[Any, bool] = {}

        def mark(variables: Sequence[Any], flags: Flags) -> None:
            for variable, flag in zip(variables, flags, strict=True):
                if flag and not isinstance(variable, Literal):
                    reached[variable] = True

        mark(self.jaxpr.outvars, wanted)
        flops = 0
        for equation, inner in zip(reversed(self.jaxpr.eqns), reversed(self.inner)):
            given = self.flags(equation.invars)
            back = [reached.get(v, False) and self.active[v] for v in equation.outvars]
            if inner:
                # Of a conditional the costliest branch.
                found = [i.cost(back) for i in inner]
                flops += max(cost for cost, _ in found)
                passed = [any(flags) for flags in zip(*(flags for _, flags in found))]
            else:
                passed = [any(back)] * len(given)
                flops += _own(equation) * (1 + (sum(given) if any(back) else 0))
            mark(equation.invars, [a and b for a, b in zip(given, passed, strict=True)])
        return flops, [reached.get(v, False) and self.active[v] for v in self.jaxpr.invars]


@dataclass
class _Inner:
    """A trace inside an equation: its arguments follow `skip` of the equation's, and it runs `times` times.

    Of a loop, `held` arguments are constants and `carried` ones go from turn to turn.
    """

    trace: _Trace
    skip: int = 0
    times: int = 1
    held: int = 0
    carried: int = 0

    def out(self) -> Flags:
        return self.trace.flags(self.trace.jaxpr.outvars)

    def cost(self, wanted: Flags) -> tuple[int, Flags]:
        wanted = list(wanted)
        while True:
            flops, passed = self.trace.cost(wanted)
            carried = passed[self.held : self.held + self.carried]
            grown = [a or b for a, b in zip(wanted, carried)] + wanted[self.carried :]
            if grown == wanted:
                return flops * self.times, [False] * self.skip + passed
            wanted = grown


def _inner_traces(equation: Any, active: Flags) -> list[_Inner]:
    """The traces that an equation runs: one, or of a conditional one for each branch; none of a plain operation."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return [_loop(params["jaxpr"].jaxpr, active, params["num_consts"], params["num_carry"], 0, params["length"])]
    if name == "while":
        skip, held = params["cond_nconsts"], params["body_nconsts"]
        return [_loop(params["body_jaxpr"].jaxpr, active[skip:], held, len(active) - skip - held, skip, 1)]
    if name == "cond":
        return [_Inner(_Trace(branch.jaxpr, active[1:]), skip=1) for branch in _branches(params)]
    found = next((params[key] for key in ("jaxpr", "call_jaxpr") if key in params), None)
    jaxpr = getattr(found, "jaxpr", found)
    if jaxpr is None or len(jaxpr.invars) != len(active) or len(jaxpr.outvars) != len(equation.outvars):
        return []
    # Of a `shard_map` the shapes are those of one device.
    return [_Inner(_Trace(jaxpr, active), times=params["mesh"].size if name == "shard_map" else 1)]


def _loop(jaxpr: Any, active: Flags, held: int, carried: int, skip: int, times: int) -> _Inner:
    """A loop's body, once what it carries depends on what is trained as much as it ever will."""
    active = list(active)
    while True:
        inner = _Inner(_Trace(jaxpr, active), skip, times, held, carried)
        grown = [a or b for a, b in zip(active[held : held + carried], inner.out())]
        if grown == active[held : held + carried]:
            return inner
        active[held : held + carried] = grown


def _branches(params: Any) -> Sequence[Any]:
    """Branches that may run on a TPU: one, where the platform decides."""
    platforms = params.get("branches_platforms")
    if platforms is None:
        return params["branches"]
    named = [place for place, names in enumerate(platforms) if names is not None and "tpu" in names]
    return [params["branches"][named[0] if named else platforms.index(None)]]


def _own(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        return _product(equation)
    return _convolution(equation) if equation.primitive.name == "conv_general_dilated" else 0


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    factor = equation.invars[0].aval.shape
    return 2 * prod(equation.outvars[0].aval.shape) * prod(factor[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    """Two for each pair of factors that is neither padding nor a gap of a dilation."""
    params = equation.params
    numbers = params["dimension_numbers"]
    image, kernel, out = equation.invars[0].aval.shape, equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    flops = 2 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for place in range(len(params["window_strides"])):
        flops *= window_positions(
            image[numbers.lhs_spec[2 + place]],
            kernel[numbers.rhs_spec[2 + place]],
            out[numbers.out_spec[2 + place]],
            stride=params["window_strides"][place],
            low=params["padding"][place][0],
            image_gap=params["lhs_dilation"][place],
            kernel_gap=params["rhs_dilation"][place],
        )
    return flops


def _is_real(variable: Any) -> bool:
    """Whether gradients can pass through a value: not through integers, flags or random keys."""
    return jnp.issubdtype(getattr(variable.aval, "dtype", jnp.int32), jnp.inexact)
