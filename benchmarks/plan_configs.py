"""Plans every shipped configuration at full size for the slice that its header states, and records the result.

    python benchmarks/plan_configs.py [NAME ...]

`benchmarks/plans.json` has a plan for each configuration, with a digest of what decides the step, and `docs/plans.md`
is its table; both are written after every configuration. Prints one JSON object; exits 1 if one does not fit. Each
takes minutes of two cores, most of it in the compiler, and libtpu (the extra `tpu`).
"""

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "plans.json"
TABLE = ROOT / "docs" / "plans.md"
DECIDING = ("model", "task", "batch_size", "micro_batches", "optimizer", "mesh", "frozen", "average", "adapter")


class Step(NamedTuple):
    """A configuration as it is planned: its file, the slice, what is set on the command line."""

    file: str
    topology: str
    overrides: tuple[str, ...] = ()


QLORA = (
    "quantize={'targets': ['text_tower/blocks/*kernel'], 'scheme': 'nf4', 'group': 64}",
    "task.length=1024",
    "task.pictures=1",
)
"""QLoRA (arXiv:2305.14314): the language model's kernels in NF4 under the configuration's adapters."""
VARIATIONS = {
    "clip_bigg14_laion_pretrain.py, batch 32,768": Step(
        "clip_bigg14_laion_pretrain.py", "v5p:8x8x4", ("batch_size=32768", "micro_batches=1")
    ),
    "llava_7b_instruct_lora.py, QLoRA, one row of 1,024 tokens": Step(
        "llava_7b_instruct_lora.py",
        "v5e:1x1",
        (*QLORA, "batch_size=1", "mesh={'preset': 'dp', 'shape': {'data': 1}}"),
    ),
    "llava_7b_instruct_lora.py, QLoRA, 16 rows of 1,024 tokens": Step(
        "llava_7b_instruct_lora.py",
        "v5e:4x4",
        (*QLORA, "batch_size=16", "mesh={'preset': 'fsdp', 'shape': {'fsdp': 16}}"),
    ),
}
"""Other settings of the configurations that are planned beside their own."""

HEAD = """# Plans of the configurations

What `jvlm plan` says of each shipped configuration at full size on the slice that its header states: the step that
`jvlm train` runs, compiled ahead of time. Bytes and FLOPs are per chip and step, GB = 1e9. The bound on MFU is a bound,
the longest of compute, memory and interconnect at their published peaks; no step has been timed.
`python benchmarks/plan_configs.py` compiles them again and writes this page; a test fails when a configuration has
changed since.

"""


def stated_topology(name: str) -> str | None:
    """The slice that the header of a configuration names, as `jvlm plan` takes it; None for a run without TPUs."""
    found = re.search(r"Hardware: TPU (\w+), (\d+(?:x\d+)+)", (ROOT / "configs" / name).read_text())
    return f"{found.group(1)}:{found.group(2)}" if found else None


def planned_steps() -> dict[str, Step]:
    """Every configuration for TPUs on its slice, by file name, and the variations."""
    names = sorted(path.name for path in (ROOT / "configs").glob("*.py") if path.name != "__init__.py")
    return {name: Step(name, found) for name in names if (found := stated_topology(name))} | VARIATIONS


def digest(step: Step) -> str:
    """Of everything in a configuration that decides its compiled step."""
    from jvlm.train.config import load_config, to_plain

    plain: dict[str, Any] = to_plain(load_config(str(ROOT / "configs" / step.file), list(step.overrides)))
    deciding = {key: plain.get(key) for key in DECIDING} | {"labels": plain["task"].get("use_labels")}
    deciding |= {key: plain[key] for key in ("quantize", "gradients") if plain.get(key)}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def load_records() -> dict[str, Any]:
    """The plans recorded so far."""
    return json.loads(RECORD.read_text()) if RECORD.is_file() else {}


def record(step: Step) -> dict[str, Any]:
    """The plan of one configuration, with what the table shows besides."""
    from jvlm.plan.compile import plan
    from jvlm.plan.topologies import describe
    from jvlm.train.config import load_config

    config: Any = load_config(str(ROOT / "configs" / step.file), list(step.overrides))
    found = plan(config, describe(step.topology))
    settings = {"batch_size": config.batch_size, "remat": config.model.get("remat", "")}
    bottleneck = found.roof.bottleneck if found.roof else None
    return {"digest": digest(step), **settings, "bottleneck": bottleneck, **found.as_json()}


def table(records: dict[str, Any]) -> str:
    """The page for the records."""
    columns = "configuration", "slice", "mesh", "batch", "remat", "parameters", "peak GB", "of GB"
    columns += "compiled / model FLOPs", "MFU at most"
    lines = [f"| {' | '.join(columns)} |", "|---|---|---|---:|---|---:|---:|---:|---:|---|"]
    for name, found in sorted(records.items()):
        mesh = ", ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
        peak, capacity = (found["bytes"][key] / 1e9 for key in ("peak", "capacity"))
        ratio = found["flops"]["compiled"] / found["flops"]["model"]
        bound = f"{100 * found['mfu_bound']:.1f} % ({found['bottleneck']})"
        lines.append(
            f"| `{name}` | {found['topology']} | {mesh} | {found['batch_size']:,} | {found['remat']} | "
            f"{found['params']:,} | {peak:.2f} | {capacity:.2f} | {ratio:.3f} | {bound} |"
        )
    waiting = sorted(set(planned_steps()) - set(records))
    if waiting:
        lines += ["", f"Not planned yet at full size: {', '.join(f'`{name}`' for name in waiting)}."]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows of the table (all)")
    names = parser.parse_args().names

    from jvlm.plan.topologies import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    known = planned_steps()
    for name in names or known:
        print(f"{name} on {known[name].topology}", file=sys.stderr, flush=True)
        found = record(known[name])
        records = {name: plan for name, plan in load_records().items() if name in known}
        if found["fits"]:
            records[name] = found
            print(f"  {found['bytes']}, MFU at most {found['mfu_bound']:.3f}", file=sys.stderr, flush=True)
        else:
            records.pop(name, None)
            print(f"  does not fit: {found['bytes']}; {found['buffers'][:3]}", file=sys.stderr, flush=True)
        RECORD.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
        TABLE.write_text(table(records))
    records = load_records()
    missing = sorted(set(known) - set(records))
    print(json.dumps({"planned": sorted(records), "do_not_fit_or_not_planned": missing}))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
