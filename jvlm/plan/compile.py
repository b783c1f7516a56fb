"""The training step of a configuration, compiled for a slice that need not exist: what it needs and what it does."""

import re
import time
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jvlm.core import sharding
from jvlm.core.errors import UserError
from jvlm.plan.arrays import Buffer, largest_arrays
from jvlm.plan.flops import model_flops
from jvlm.plan.hlo import read_program
from jvlm.plan.roofline import Movement, Roofline, movements, roofline
from jvlm.plan.topologies import Topology, uncached
from jvlm.train.loop import compile_step, plan_state
from jvlm.train.setup import setup
from jvlm.transforms.freeze import partition

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Plan:
    """A step on a slice. Bytes and FLOPs are per chip and step.

    kinds: bytes of the arguments by kind (parameters, optimizer, ...), without padding. peak includes the arguments;
    capacity is what XLA lets a program have. Where the step does not fit, compiled_flops, moved and roof are None and
    `buffers` lists the largest arrays.
    """

    topology: str
    chips: int
    mesh: dict[str, int]
    params: int
    kinds: dict[str, int]
    arguments: int
    temporaries: int
    peak: int
    capacity: int
    compiled_flops: int | None
    model_flops: int
    moved: tuple[Movement, ...] | None
    roof: Roofline | None
    compile_s: float
    buffers: tuple[Buffer, ...] = ()
    unknown_loops: int = 0
    kernels: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return self.compiled_flops is not None and self.peak <= self.capacity

    @property
    def mfu_bound(self) -> float | None:
        return self.roof.mfu_bound if self.roof else None

    def as_json(self) -> dict[str, Any]:
        """What `jvlm plan --json` prints; `buffers` only where the step does not fit."""
        moved = [{"kind": m.kind, "axis": m.axis, "count": m.count, "bytes": m.bytes} for m in self.moved or ()]
        found: dict[str, Any] = {
            "topology": self.topology,
            "chips": self.chips,
            "mesh": self.mesh,
            "params": self.params,
            "bytes": {
                "arguments": self.arguments,
                "temporaries": self.temporaries,
                "peak": self.peak,
                "capacity": self.capacity,
            },
            "flops": {"compiled": self.compiled_flops, "model": self.model_flops},
            "collectives": moved,
            "mfu_bound": self.mfu_bound,
            "fits": self.fits,
            "compile_s": self.compile_s,
        }
        if not self.fits:
            found["buffers"] = [vars(buffer) for buffer in self.buffers]
        return found


def plan(config: ConfigDict, topology: Topology) -> Plan:
    """Compiles the step that `jvlm train` runs. Running out of memory is a result; other refusals are a UserError."""
    run = setup(config, abstract=True, devices=topology.devices)
    state, batch, seed, step = abstract_step(run)
    trained, frozen = partition(run.params, run.frozen)
    per_chip = topology.chip.cores
    flops = model_flops(run.task, trained, frozen, state.state, run.batch) // topology.chips
    kinds = {kind: per_chip * _bytes(part) for kind, part in _by_kind(state, batch).items()}
    planned = Plan(
        topology=topology.name,
        chips=topology.chips,
        mesh={axis: size for axis, size in run.mesh.shape.items() if size > 1} or {"data": 1},
        params=sum(leaf.size for leaf in jax.tree.leaves(run.params)),
        kinds=kinds,
        arguments=sum(kinds.values()),
        temporaries=0,
        peak=0,
        capacity=per_chip * capacity(run.mesh),
        compiled_flops=None,
        model_flops=flops,
        moved=None,
        roof=None,
        compile_s=0.0,
    )
    began = time.monotonic()
    with sharding.use(run.mesh, run.rules):
        traced = step.trace(state, batch, seed)
        try:
            with uncached():
                compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            buffers = largest_arrays(traced.jaxpr, sharding.batch_shards(run.mesh))
            planned = replace(planned, buffers=buffers, compile_s=round(time.monotonic() - began, 1))
            return _refused(planned, str(error), per_chip)
    seconds = time.monotonic() - began
    program, memory = read_program(compiled.as_text() or ""), compiled.memory_analysis()
    moved = movements(program.collectives, run.mesh, per_chip)
    compiled_flops = per_chip * program.flops
    return replace(
        planned,
        arguments=per_chip * memory.argument_size_in_bytes,
        temporaries=per_chip * memory.temp_size_in_bytes,
        peak=per_chip * memory.peak_memory_in_bytes,
        compiled_flops=compiled_flops,
        moved=moved,
        roof=roofline(topology.chip, compiled_flops, flops, per_chip * program.traffic, moved),
        compile_s=round(seconds, 1),
        unknown_loops=program.unknown_loops,
        kernels=tuple(sorted(name for name in program.custom_calls if name == "tpu_custom_call")),
    )


def abstract_step(run: Any) -> tuple[Any, dict[str, Any], Any, Any]:
    """(state, batch, seed key, jitted step) of a run, the arguments as shapes with their shardings."""
    state = plan_state(run)[1]
    split = sharding.batch_sharding(run.mesh)
    batch = {key: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=split) for key, value in run.batch.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    seed = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(run.mesh, PartitionSpec()))
    return state, batch, seed, compile_step(run, state)


def capacity(mesh: Mesh) -> int:
    """Bytes of a device's memory that XLA lets a program have, from its own refusal of one that needs far more."""
    shape = jax.ShapeDtypeStruct((1 << 42,), jnp.int8, sharding=NamedSharding(mesh, PartitionSpec()))
    try:
        with uncached():
            jax.jit(lambda x: x + 1).lower(shape).compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"(?:available HBM \(| of )([\d.]+)([KMGT]?)\b", str(error))
        if found:
            return _size(found)
        raise
    raise UserError("the compiler took a program of 4 TB, so it does not say how much memory a chip has")


def asked_for(message: str, arguments: int) -> int | None:
    """The bytes of a core's memory that a program needs, from the compiler's refusal of it; None for another refusal.

    `arguments` are the bytes of the program's, which one of the compiler's two wordings leaves out.
    """
    used = re.search(r"Used ([\d.]+)([KMGT]?) of ", message) or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds", message)
    if "RESOURCE_EXHAUSTED" not in message or used is None:
        return None
    return _size(used) + (arguments if "for HLO temporaries (" in message else 0)


def _refused(planned: Plan, message: str, per_chip: int) -> Plan:
    """The plan of a step that does not fit, from the compiler's message. UserError for any other refusal."""
    needed = asked_for(message, planned.arguments // per_chip)
    if needed is None:
        raise UserError(f"the compiler refused the step: {' '.join(message.split())[:300]}") from None
    peak = per_chip * needed
    return replace(planned, peak=peak, temporaries=max(peak - planned.arguments, 0))


def _size(match: re.Match[str]) -> int:
    return int(float(match.group(1)) * _UNITS[match.group(2)])


def _by_kind(state: Any, batch: Any) -> dict[str, Any]:
    parts = {
        "parameters": (state.params, state.frozen),
        "optimizer": state.opt_state,
        "average": state.average,
        "model state": (state.state, state.guard, state.step),
        "batch": batch,
    }
    return {kind: part for kind, part in parts.items() if jax.tree.leaves(part)}


def _bytes(tree: Any) -> int:
    """Bytes of a tree of shapes on one device, without padding."""
    return sum(prod(x.sharding.shard_shape(x.shape)) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
