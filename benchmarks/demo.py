"""The demo over several seeds: held-out-style retrieval beside chance and nearest pixels, and how long it took.

    python benchmarks/demo.py --seeds 3

Prints one JSON object: for each metric the mean over seeds, every seed's value, chance and nearest pixels; seconds of
training (compilation, evaluation, export and report included) by seed. Takes about four minutes a seed on two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("retrieval_style", "retrieval_concepts")


def run_seed(seed: int, workdir: Path) -> tuple[float, dict[str, Any]]:
    """Seconds and `results.json` of one run of the demo."""
    config = str(ROOT / "configs" / "clip_tiny_emoji_pretrain.py")
    command = [sys.executable, "-m", "jvlm.cli.train", "--config", config, "--workdir", str(workdir)]
    start = time.monotonic()
    subprocess.run(
        [*command, f"--config.seed={seed}"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.monotonic() - start, json.loads((workdir / "results.json").read_text())


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Per suite and metric: mean over the runs, each run's value, chance, and nearest pixels where measured."""
    out: dict[str, Any] = {}
    for suite in SUITES:
        pixels = results[0].get(f"{suite}_pixels", {})
        for metric, score in results[0][suite].items():
            values = [result[suite][metric]["value"] for result in results]
            row: dict[str, Any] = dict(mean=statistics.mean(values), runs=values, chance=score["chance"])
            if metric in pixels:
                row["nearest_pixels"] = pixels[metric]["value"]
            out.setdefault(suite, {})[metric] = row
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_seed(seed, Path(folder) / str(seed)) for seed in range(args.seeds)]
    report = summarize([results for _, results in runs])
    print(json.dumps(dict(seconds=[round(seconds, 1) for seconds, _ in runs], **report), indent=1))


if __name__ == "__main__":
    main()
