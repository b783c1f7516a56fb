"""Memory and products of the contrastive losses on a pod, compiled ahead of time: no TPU is needed, libtpu is.

    python benchmarks/contrastive_memory.py [--topology v5e:16x16] [--batch 32768] [--form ring] [--kind softmax]
    python benchmarks/contrastive_memory.py --scaling 256

For loss and gradients (embeddings, scale, bias) it prints one JSON object with a row for each program: peak bytes per
chip, arguments included; FLOPs in units of 2 N^2 D / chips, loops multiplied out; bytes that a chip sends in the busier
direction of its ring. Embeddings are float32 of width 768, products bfloat16. It exits 1 if a ring breaks a limit: on
peak (v5e:16x16), on FLOPs, or on bytes, which must be at most half of a one-way ring's where that is compiled too. It
says nothing about time. All 18 programs take about ten minutes on two cores.

`--scaling N` compiles the ring at N pairs a chip on v5p slices of 8 to 4,096 chips instead; peaks may grow by 2 %.
"""

import argparse
import json
import os
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


SLICES = ("v5p:2x2x2", "v5p:4x4x4", "v5p:8x8x8", "v5p:16x16x16")
MOST_GROWTH = 1.02


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

    from jvlm.plan.compile import asked_for
    from jvlm.plan.hlo import read_program

    row: dict[str, Any] = {"kind": kind, "form": form, "batch": batch}
    start = time.monotonic()
    try:
        compiled = compile_loss(kind, form, batch, mesh)
    except jax.errors.JaxRuntimeError as error:
        arguments = 2 * batch // mesh.size * WIDTH * 4
        needed = asked_for(str(error), arguments)
        if needed is None:
            raise
        return row | {"out_of_memory": True, "peak_mb": round(needed / 1e6, 1)}
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


def broken_limits(row: dict[str, Any], topology: str) -> list[str]:
    """What a row promises and does not hold; the textbook form promises nothing."""
    if row["form"] == "textbook":
        return []
    if row["out_of_memory"] or row["unknown_loops"]:
        return ["not compiled as expected"]
    broken = []
    limit = PEAK_LIMITS.get(row["batch"]) if topology == "v5e:16x16" else None
    if row["form"] == "ring" and limit and row["peak_mb"] * 1e6 > limit:
        broken.append(f"peak above {PEAK_LIMITS[row['batch']] / 1e6:.0f} MB")
    if row["flop_units"] > UNIT_LIMITS[row["kind"]]:
        broken.append(f"FLOPs above {UNIT_LIMITS[row['kind']]} units")
    return broken


def broken_halves(rows: list[dict[str, Any]]) -> list[str]:
    """Rings whose busier direction carries more than half of what a one-way ring's carries."""
    sent = {(row["kind"], row["batch"], row["form"]): row.get("sent_one_direction_mb") for row in rows}
    pairs = [(key, sent.get((*key[:2], "one_way"))) for key in sent if key[2] == "ring"]
    return [f"{key[0]} at {key[1]}: {sent[key]} MB" for key, one in pairs if one and (sent[key] or 0) > 0.5 * one + 0.1]


def mesh_of(name: str):
    """A one-axis mesh of the slice called `name`."""
    import jax
    from jax.sharding import AxisType

    from jvlm.plan.topologies import describe

    devices = describe(name).devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def scaling(local: int, kinds: list[str], slices: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """Rows of the ring at a fixed local batch, and whether the peak stays within its limit from the first slice on."""
    rows = []
    for kind in kinds:
        for name in slices:
            mesh = mesh_of(name)
            rows.append(measure(kind, "ring", local * mesh.size, mesh) | {"topology": name, "chips": mesh.size})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    peaks = [[row["peak_mb"] for row in rows if row["kind"] == kind] for kind in kinds]
    return rows, all(max(peak) <= MOST_GROWTH * peak[0] for peak in peaks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--form", nargs="+", choices=(*FORMS, "one_way"), default=FORMS)
    parser.add_argument("--scaling", type=int, metavar="N", help="pairs a chip")
    parser.add_argument("--slices", nargs="+", default=list(SLICES), help="of --scaling")
    options = parser.parse_args()

    from jvlm.plan.topologies import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # before jax is imported
    if options.scaling:
        rows, held = scaling(options.scaling, list(options.kind), options.slices)
        print(json.dumps({"local_batch": options.scaling, "width": WIDTH, "limits_held": held, "rows": rows}))
        return 0 if held else 1
    mesh = mesh_of(options.topology)
    rows = []
    for batch in options.batch:
        for kind in options.kind:
            for form in options.form:
                row = measure(kind, form, batch, mesh)
                rows.append(row | {"broken_limits": broken_limits(row, options.topology)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    held = not any(row["broken_limits"] for row in rows) and not broken_halves(rows)
    print(
        json.dumps(
            {"topology": options.topology, "chips": mesh.size, "width": WIDTH, "limits_held": held, "rows": rows}
        )
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
