"""What the runs on easy-VQA found, in one table: `python scripts/easy_vqa_table.py runs/*-easyvqa`.

For each workdir the trained parameters, the time of its steps, and for each type of question the score beside the same
model with other questions' pictures and with none.
"""

import json
import sys
from pathlib import Path
from typing import Any


def found(workdir: Path) -> dict[str, Any]:
    """The scores of a run: of every suite the types of question, or all questions where there is one type."""
    scores = {}
    for suite, metrics in json.loads((workdir / "results.json").read_text()).items():
        by_type = {name: score for name, score in metrics.items() if name != "accuracy"}
        scores |= by_type or {suite: metrics["accuracy"]}
    return {name.removeprefix("accuracy_").removeprefix("easy_vqa_"): score for name, score in scores.items()}


def row(workdir: Path) -> list[str]:
    """The cells of one run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = next(line["trained"] for line in lines if "trained" in line)
    timed = [line for line in lines if "step_seconds" in line]
    steps = [line["step"] for line in timed]
    seconds = sum(line["step_seconds"] * (end - start) for line, start, end in zip(timed, [0, *steps], steps))
    scores = found(workdir)

    def shown(score: dict[str, Any]) -> str:
        value, blind, none = (f"{100 * score[key]:.1f}" for key in ("value", "blind", "removed"))
        return f"{value} ({100 * score['low']:.1f} to {100 * score['high']:.1f}), {blind}, {none}"

    return [workdir.name, f"{trained / 1e6:.2f} M", f"{seconds / 60:.1f} min", *map(shown, scores.values())]


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]]
    if not folders:
        sys.exit("usage: easy_vqa_table.py WORKDIR...")
    metrics = [f"{name} % (95 %), shuffled, no picture" for name in found(folders[0])]
    print("| " + " | ".join(["run", "trained", "steps took", *metrics]) + " |")
    print("|" + "---|" * (3 + len(metrics)))
    for folder in folders:
        print("| " + " | ".join(row(folder)) + " |")


if __name__ == "__main__":
    main()
