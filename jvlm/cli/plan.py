"""Compiles the training step of a configuration for a TPU slice, on any machine: memory, work and messages per chip.

example:
  jvlm plan --config configs/clip_l14_laion_pretrain.py --topology v5e:16x16
  jvlm plan --config configs/clip_l14_laion_pretrain.py --topology v5e:16x16 --search remat
  jvlm plan --config configs/clip_l14_laion_pretrain.py --topology 4xv5e:16x16 --batch 131072 --json
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jvlm.cli.numbers import whole
from jvlm.core.literals import assigned

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from jvlm.plan.compile import Plan
    from jvlm.plan.search import Candidate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE[:arg]", help="configuration file or shipped name")
    parser.add_argument("--topology", required=True, metavar="NAME", help="a slice or several: v5e:16x16, 4xv5e:16x16")
    parser.add_argument(
        "--mesh", metavar="[PRESET:]AXIS=N,...", help="instead of the configuration's: fsdp:data=16,fsdp=16"
    )
    parser.add_argument("--batch", type=whole(1), metavar="N", help="instead of the configuration's batch_size")
    parser.add_argument(
        "--adapter", metavar="KIND[:FIELD=VALUE,...]", help="instead of the configuration's: lora:rank=16"
    )
    parser.add_argument("--search", choices=("batch", "mesh", "remat"), help="the largest batch, or the best of these")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the memory by kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Slices: v4, v5e, v5p, v6e, tpu7x. Any key of the configuration is overridden by --config.KEY=VALUE.\n\n"
        "The bound on MFU is a bound: the longest of compute, memory and interconnect at their published peaks. It is\n"
        "no prediction of a step's time. Figures are per chip and step; GB = 1e9 bytes. A step that does not fit is a\n"
        "result, not an error."
    )
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    from jvlm.plan.topologies import ENVIRONMENT, describe

    os.environ.update(ENVIRONMENT)
    topology = describe(args.topology)

    from jvlm.cli.main import print_json
    from jvlm.plan.compile import plan
    from jvlm.plan.search import nothing_fits, search

    load_settings(args)
    if args.search is None:
        found = plan(load_settings(args), topology)
        if args.json:
            print_json(found.as_json())
        else:
            show(found, args.config)
    else:

        def report(candidate: "Candidate") -> None:
            if not args.json:
                print(f"  {candidate.name}: {summary(candidate.plan)}", flush=True)

        best, candidates = search(args.search, lambda: load_settings(args), topology, report)
        if args.json:
            rows = [{"name": c.name, **c.plan.as_json()} for c in candidates]
            print_json({"search": args.search, "best": best and best.name, "candidates": rows})
        else:
            show_candidates(args.search, candidates, best)
        if best is None:
            raise nothing_fits(args.search, candidates)
        found = best.plan
    if args.plot:
        from jvlm.plan.picture import memory_picture

        Path(args.plot).write_text(memory_picture(found, f"{Path(args.config).name} on {args.topology}"))
    return 0


def load_settings(args: argparse.Namespace) -> "ConfigDict":
    """The configuration with what the command line sets of it."""
    from jvlm.plan.search import mesh_override
    from jvlm.train.config import apply_override, load_config, to_plain

    config = load_config(args.config, args.overrides)
    if args.batch is not None:
        apply_override(config, f"batch_size={args.batch}")
    if args.mesh:
        preset = (to_plain(config).get("mesh") or {}).get("preset", "dp")
        apply_override(config, mesh_override(args.mesh, preset))
    if args.adapter:
        with config.unlocked():
            config.adapter = adapter_fields(args.adapter)
    return config


def adapter_fields(text: str) -> dict[str, Any]:
    """`{"kind": KIND, FIELD: VALUE, ...}` of an `--adapter`; values are Python literals, or else strings."""
    kind, _, rest = text.partition(":")
    return {"kind": kind, **(assigned(rest, f"--adapter {text!r}", "lora:rank=16") if rest else {})}


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def summary(plan: "Plan") -> str:
    """One line."""
    if not plan.fits:
        return f"does not fit: {gigabytes(plan.peak)} of {gigabytes(plan.capacity)}"
    return f"peak {gigabytes(plan.peak)}, MFU at most {100 * (plan.mfu_bound or 0):.1f} %"


def show(plan: "Plan", name: str) -> None:
    """A plan for people."""
    from jvlm.cli.encoding import print_table

    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    print(f"{name} on {plan.topology}: {plan.chips} chips ({mesh}), {plan.params:,} parameters")
    rows = [(kind, gigabytes(size)) for kind, size in plan.kinds.items()]
    rows += [
        ("arguments, padded", gigabytes(plan.arguments)),
        ("temporaries", gigabytes(plan.temporaries)),
        ("peak", gigabytes(plan.peak)),
        ("capacity (XLA's limit)", gigabytes(plan.capacity)),
    ]
    print_table("memory of a chip", ("", ""), rows)
    if not plan.fits:
        print(f"does not fit: {gigabytes(plan.peak - plan.capacity)} too large; the largest arrays:")
        for buffer in plan.buffers[:10]:
            print(f"  {gigabytes(buffer.bytes)}  {buffer.shape}  {buffer.source}")
        return
    if plan.compiled_flops is None or plan.roof is None:
        return
    ratio = plan.compiled_flops / max(plan.model_flops, 1)
    work = f"{plan.compiled_flops:.4g} compiled, {plan.model_flops:.4g} by the model, ratio {ratio:.3f}"
    print(f"FLOPs of a chip and step: {work}")
    if plan.unknown_loops:
        print(f"  {plan.unknown_loops} loops run as long as the data says and were counted once")
    if plan.kernels:
        print("  kernels that cannot be looked into count as nothing")
    moved = [(m.kind, m.axis, str(m.count), gigabytes(m.bytes)) for m in plan.moved or ()]
    print_table("collectives of a chip and step", ("kind", "axes", "count", "bytes"), moved)
    seconds = ", ".join(f"{resource} {1e3 * value:.1f} ms" for resource, value in plan.roof.seconds.items())
    print(f"at the published peaks, each alone: {seconds}")
    bound = 100 * plan.roof.mfu_bound
    print(f"bottleneck: {plan.roof.bottleneck}; MFU is at most {bound:.1f} % (a bound, not a prediction)")
    print(f"fits, {gigabytes(plan.capacity - plan.peak)} to spare; compiled in {plan.compile_s:.0f} s")


def show_candidates(what: str, candidates: "list[Candidate]", best: "Candidate | None") -> None:
    """The table of a search."""
    from jvlm.cli.encoding import print_table

    def row(candidate: "Candidate") -> tuple[str, ...]:
        plan = candidate.plan
        bound = "" if plan.mfu_bound is None else f"{100 * plan.mfu_bound:.1f}"
        work = "" if plan.compiled_flops is None else f"{plan.compiled_flops / max(plan.model_flops, 1):.3f}"
        limit = plan.roof.bottleneck if plan.roof else ""
        mark = "best" if candidate is best else "" if plan.fits else "does not fit"
        return candidate.name, gigabytes(plan.peak), work, limit, bound, mark

    columns = (what, "peak", "compiled / model FLOPs", "bottleneck", "MFU at most, %", "")
    print_table("", columns, [row(candidate) for candidate in candidates])


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("plan", sys.argv[1:]))
