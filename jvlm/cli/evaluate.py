"""Scores a model directory or a workdir, beside chance and the model's own blind score.

example:
  jvlm evaluate --model runs/demo --suite retrieval_style retrieval_style_pixels
  jvlm evaluate --model clip-vit-base-patch32 --suite zero_shot --data pictures/ --output results.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from jvlm.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from jvlm.cli.encoding import add_model_arguments

    add_model_arguments(parser)
    parser.add_argument("--suite", required=True, nargs="+", metavar="NAME", help="what to score, see below")
    parser.add_argument("--data", metavar="DIR", help="the data of a suite that brings none")
    parser.add_argument("--output", metavar="FILE", help="where the scores go (results.json in --model)")
    parser.epilog = (
        "suites: retrieval_style, retrieval_style_pixels, retrieval_concepts, retrieval_validation,\n"
        "retrieval_validation_pixels, zero_shot_style, linear_probe_style, knn_style (the demo's emoji);\n"
        "easy_vqa, easy_vqa_choice (questions about drawn shapes, for a model that writes);\n"
        "with --data DIR: retrieval, zero_shot, linear_probe, knn, conversations.\n\n"
        "FILE holds {suite: {metric: {value, low, high, chance, blind, n}}}, values in 0..1, low and high the 95 %\n"
        "interval, blind the score with the pictures shuffled; answers have `removed` as well, the score without\n"
        "pictures. Scores of other suites in a workdir's results.json stay."
    )


def run(args: argparse.Namespace) -> int:
    from jvlm.evals.suites import check_names, make_evaluator

    check_names(args.suite)
    evaluators = {name: make_evaluator(name, args.data) for name in args.suite}

    from jvlm.cli.answering import load_answerer
    from jvlm.cli.encoding import load_encoder, write_file
    from jvlm.cli.main import print_json
    from jvlm.evals.score import asks, score

    kinds = set(map(asks, evaluators.values()))
    subjects = {kind: load_answerer(args, unrolled=False) if kind else load_encoder(args, "image")[1] for kind in kinds}
    workdir = find_workdir(Path(args.model))
    results: dict[str, Any] = {}
    for name, evaluator in evaluators.items():
        results[name] = score(name, evaluator, subjects[asks(evaluator)], workdir and workdir / "report")
        if not args.json:
            show(name, results[name])
    output = Path(args.output) if args.output else (workdir or Path(args.model)) / "results.json"
    kept = {} if args.output else read_results(output)
    write_file(output, (json.dumps({**kept, **results}, indent=1, allow_nan=False) + "\n").encode())
    if workdir is not None and not args.output:
        from jvlm.train.report import write_report

        write_report(workdir)
    if args.json:
        print_json(results)
    else:
        print(f"written to {output}")
    return 0


def find_workdir(model: Path) -> Path | None:
    """The workdir that `--model` is, or of which it is a checkpoint step; None for a published directory."""
    for folder in (model, model.parent.parent):
        if (folder / "checkpoints").is_dir() and (folder / "config.json").is_file():
            return folder
    return None


def read_results(path: Path) -> dict[str, Any]:
    """Scores written before, or nothing. UserError for a file that something else wrote."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); move it away or give --output") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no scores; move it away or give --output")
    return found


def show(suite: str, scores: dict[str, Any]) -> None:
    """One suite as a table of percentages."""
    from jvlm.cli.encoding import print_table

    answers = any("removed" in score for score in scores.values())

    def row(metric: str, s: dict[str, Any]) -> tuple[str, ...]:
        def shown(key: str) -> str:
            return f"{s[key]:.2f}" if metric.startswith("perplexity") else f"{100 * s[key]:.1f}"

        blind = [shown("blind"), *([shown("removed")] if answers else [])]
        return metric, shown("value"), f"{shown('low')} to {shown('high')}", shown("chance"), *blind, str(s["n"])

    rows = [row(metric, score) for metric, score in scores.items()]
    blind = ("shuffled", "no picture") if answers else ("blind",)
    print_table(suite, ("metric", "%", "95 % interval", "chance", *blind, "n"), rows)


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("evaluate", sys.argv[1:]))
