"""Ways to fine-tune the demo's CLIP on an art style that it never saw: accuracy, share of what is trained, cost.

    python benchmarks/adapters.py --base runs/demo --seeds 3

Fine-tunes on the held-out style's other emoji (the split `validation`) mixed with what the base was trained on, since
alone they make it forget the captions that they lack; scores on 400 emoji of that style (the split `style`): recall at
1 and 10, the mean of both directions and of the seeds. `--base` is a workdir or directory of the
demo; with `--quantized DIR`, the same model as `jvlm quantize BASE DIR --scheme nf4` wrote it, QLoRA is added. Prints
one JSON object and, on stderr, a table. Step times are medians of a run's own clock; optimizer bytes are counted from
shapes. Learning rates were set by hand after a look at two or three for the full run, LoRA and CoOp (seed 0).
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jvlm.plan.adapters import account
from jvlm.train.config import load_config
from jvlm.train.loop import train
from jvlm.train.runtime import start

ROOT = Path(__file__).resolve().parents[1]
EVERY_KERNEL = ["*/layers/*/kernel"]
LOW_RANK: dict[str, Any] = dict(rank=16, alpha=32, targets=EVERY_KERNEL)
METHODS: dict[str, tuple[dict[str, Any] | None, float]] = {
    "none": (None, 0.0),
    "full": (None, 3e-4),
    "lora": (dict(kind="lora", **LOW_RANK), 4e-3),
    "dora": (dict(kind="dora", **LOW_RANK), 4e-3),
    "ia3": (dict(kind="ia3", targets=EVERY_KERNEL, feedforward=["*/mlp/down/kernel"]), 1e-2),
    "bitfit": (dict(kind="bitfit"), 3e-3),
    "bottleneck": (dict(kind="bottleneck", rank=16), 2e-3),
    "coop": (dict(kind="coop", context=4), 1e-3),
    "qlora": (dict(kind="lora", **LOW_RANK), 4e-3),
}
"""The adapter of each row (None: everything is trained) and its learning rate."""
NEW = 0.4
"""Share of the new style among the samples."""


def configuration(name: str, base: str, seed: int, steps: int) -> Any:
    """The run of one row."""
    adapter, lr = METHODS[name]
    config = load_config(str(ROOT / "configs" / "clip_tiny_emoji_pretrain.py"))
    source = dict(name="emoji", captions="training")
    parts = [dict(source, split="train", weight=1 - NEW), dict(source, split="validation", weight=NEW)]
    with config.unlocked(), config.ignore_type():
        config.update(seed=seed, steps=max(steps, 1), init=base, export="", checkpoint_every=steps + 1, log_every=1)
        config.adapter = adapter
        config.data = dict(mixture=parts)
        config.optimizer = dict(name="adamw", lr=lr, schedule=dict(name="cosine", warmup=min(20, steps // 4)))
        config.evals = dict(retrieval_style={})
    return config


def measure(name: str, base: str, seed: int, steps: int, folder: Path) -> dict[str, float]:
    """Scores and the median time of a step of one run."""
    workdir = folder / f"{name}-{seed}"
    config = configuration(name, base, seed, steps if name != "none" else 1)
    if name == "none":
        with config.unlocked():
            config.optimizer.lr = 0.0
    with contextlib.redirect_stdout(sys.stderr):
        train(config, str(workdir), quiet=True)
    scores = json.loads((workdir / "results.json").read_text())["retrieval_style"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = [line["step_seconds"] for line in lines if "step_seconds" in line][2:]
    return dict(
        r1=statistics.mean(scores[f"{way}_r1"]["value"] for way in ("image_to_text", "text_to_image")),
        r10=statistics.mean(scores[f"{way}_r10"]["value"] for way in ("image_to_text", "text_to_image")),
    ) | (dict(step_s=statistics.median(times)) if times else {})


def row(name: str, base: str, seeds: int, steps: int, folder: Path) -> dict[str, Any]:
    """One line of the table."""
    runs = [measure(name, base, seed, steps, folder) for seed in range(1 if name == "none" else seeds)]
    counted = account(configuration(name, base, 0, steps))
    trained = 0 if name == "none" else counted.trainable
    return dict(
        method=name,
        **{key: statistics.mean(run[key] for run in runs) for key in runs[0]},
        runs=runs,
        trainable=trained,
        share=trained / counted.total,
        optimizer_bytes=0 if name == "none" else counted.optimizer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--quantized", help="the base in NF4, for QLoRA")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    start()
    rows = []
    print(
        f"{'method':<11} {'R@1':>6} {'R@10':>6} {'trained':>9} {'share':>9} {'step':>8} {'optimizer':>11}",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in args.methods:
            if name == "qlora" and not args.quantized:
                continue
            base = args.quantized if name == "qlora" else args.base
            found = row(name, base, args.seeds, args.steps, Path(folder))
            rows.append(found)
            step = f"{found['step_s'] * 1e3:.0f}ms" if "step_s" in found else ""
            print(
                f"{name:<11} {found['r1']:6.3f} {found['r10']:6.3f} {found['trainable']:>9,} {found['share']:>8.3%} "
                f"{step:>8} {found['optimizer_bytes'] / 1e6:>9.3f}MB",
                file=sys.stderr,
            )
    print(json.dumps(dict(steps=args.steps, seeds=args.seeds, rows=rows), indent=1))


if __name__ == "__main__":
    main()
