"""Memory and products of the contrastive losses on a pod, compiled ahead of time: no TPU is needed, libtpu is.

    python benchmarks/contrastive_memory.py [--topology v5e:16x16] [--batch 32768] [--form ring] [--kind softmax]

For loss and gradients (embeddings, scale, bias) it prints one JSON object with a row for each program: peak bytes per
chip, arguments included; FLOPs in units of 2 N^2 D / chips, loops multiplied out; bytes that a chip sends in the busier
direction of its ring. Embeddings are float32 of width 768, products bfloat16. It exits 1 if a ring breaks a limit. It
says nothing about time. All 18 programs take about ten minutes on two cores.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from typing import Any

WIDTH = 768
BATCHES = (32_768, 262_144, 1_048_576)
KINDS = ("softmax", "sigmoid")
FORMS = ("ring", "two_level", "textbook")
PEAK_LIMITS = {32_768: 25e6, 1_048_576: 200e6}
"""Of the ring, bytes per chip on v5e:16x16."""
UNIT_LIMITS = {"softmax": 4.0, "sigmoid": 3.0}
"""Of the ring and the two-level form."""


def textbook(kind: str, zimg, ztxt, scale, bias, mesh):
    """The loss as one writes it down, its logits split by rows."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    logits = jnp.einsum(
        "ne,me->nm",
        zimg.astype(jnp.bfloat16),
        ztxt.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    )
    logits = jax.lax.with_sharding_constraint(logits * scale, NamedSharding(mesh, PartitionSpec("data", None)))
    if kind == "softmax":
        rows, columns = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
        return -(jnp.trace(rows) + jnp.trace(columns)) / 2
    sign = 2 * jnp.eye(len(logits)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(sign * (logits + bias)))


def compile_loss(kind: str, form: str, batch: int, mesh) -> Any:
    """The compiled value and gradients of a mean loss over `batch` pairs that are split over the mesh."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from jvlm.losses.ring import contrastive_loss

    def loss(zimg, ztxt, scale, bias):
        if form == "textbook":
            return textbook(kind, zimg, ztxt, scale, bias, mesh) / batch
        options: dict[str, Any] = {"form": "two_level"} if form == "two_level" else {"bidirectional": form == "ring"}
        total, weight = contrastive_loss(kind, zimg, ztxt, scale, bias, mesh=mesh, dot_dtype=jnp.bfloat16, **options)
        return total / weight

    split, same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    z = jax.ShapeDtypeStruct((batch, WIDTH), jnp.float32, sharding=split)
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=same)
    function = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))
    return jax.jit(function, out_shardings=(same, (split, split, same, same))).lower(z, z, scalar, scalar).compile()


def measure(kind: str, form: str, batch: int, mesh) -> dict[str, Any]:
    """A row of the table; where the program does not fit, the compiler's own account of it."""
    import jax

    from jvlm.plan.hlo import read_program

    row: dict[str, Any] = {"kind": kind, "form": form, "batch": batch}
    start = time.monotonic()
    try:
        compiled = compile_loss(kind, form, batch, mesh)
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([MGT]) of ([\d.]+)([MGT])", str(error))
        if used is None:
            raise
        power = {"M": 2**20, "G": 2**30, "T": 2**40}
        return row | {"out_of_memory": True, "peak_mb": round(float(used[1]) * power[used[2]] / 1e6, 1)}
    program = read_program(compiled.as_text())
    memory = compiled.memory_analysis()
    directions: Counter[tuple] = Counter()
    for collective in program.collectives:
        if collective.kind == "collective-permute":
            directions[tuple(sorted(collective.groups))] += collective.bytes
    return row | {
        "out_of_memory": False,
        "peak_mb": round(memory.peak_memory_in_bytes / 1e6, 2),
        "arguments_mb": round(memory.argument_size_in_bytes / 1e6, 2),
        "flop_units": round(program.flops / (2 * batch**2 * WIDTH / mesh.size), 3),
        "sent_one_direction_mb": round(max(directions.values(), default=0) / 1e6, 1),
        "unknown_loops": program.unknown_loops,
        "compile_s": round(time.monotonic() - start, 1),
    }


def broken_limits(row: dict[str, Any]) -> list[str]:
    """What a row promises and does not hold; the textbook form promises nothing."""
    if row["form"] == "textbook":
        return []
    if row["out_of_memory"] or row["unknown_loops"]:
        return ["not compiled as expected"]
    broken = []
    if row["form"] == "ring" and row["peak_mb"] * 1e6 > PEAK_LIMITS.get(row["batch"], float("inf")):
        broken.append(f"peak above {PEAK_LIMITS[row['batch']] / 1e6:.0f} MB")
    if row["flop_units"] > UNIT_LIMITS[row["kind"]]:
        broken.append(f"FLOPs above {UNIT_LIMITS[row['kind']]} units")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--form", nargs="+", choices=(*FORMS, "one_way"), default=FORMS)
    options = parser.parse_args()

    # Before jax is imported: describe a pod from a machine without one.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.update(TPU_LOG_DIR="disabled")
    import jax
    from jax.experimental import topologies
    from jax.sharding import AxisType

    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    chips = len(topology.devices)
    mesh = jax.make_mesh((chips,), ("data",), axis_types=(AxisType.Auto,), devices=topology.devices)
    rows = []
    for batch in options.batch:
        for kind in options.kind:
            for form in options.form:
                row = measure(kind, form, batch, mesh)
                rows.append(row | {"broken_limits": broken_limits(row)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    held = not any(row["broken_limits"] for row in rows)
    print(json.dumps({"topology": options.topology, "chips": chips, "width": WIDTH, "limits_held": held, "rows": rows}))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
