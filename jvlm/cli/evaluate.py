"""Scores a model directory or a workdir, beside chance and the model's own blind score.

example:
  jvlm evaluate --model runs/demo --suite retrieval_style retrieval_style_pixels
  jvlm evaluate --model clip-vit-base-patch32 --suite zero_shot --data pictures/ --output results.json
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jvlm.core.errors import UserError

if TYPE_CHECKING:
    from jvlm.evals.painter import Painter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from jvlm.cli.encoding import add_model_arguments

    add_model_arguments(parser)
    parser.add_argument("--suite", required=True, nargs="+", metavar="NAME", help="what to score, see below")
    parser.add_argument("--data", metavar="DIR", help="the data of a suite that brings none")
    parser.add_argument("--judge", metavar="DIR", help="the CLIP or vision tower that looks at painted pictures")
    parser.add_argument("--output", metavar="FILE", help="where the scores go (results.json in --model)")
    parser.epilog = (
        "suites: retrieval_style, retrieval_style_pixels, retrieval_concepts, retrieval_validation,\n"
        "retrieval_validation_pixels, zero_shot_style, linear_probe_style, knn_style (the demo's emoji);\n"
        "easy_vqa, easy_vqa_choice (questions about drawn shapes, for a model that writes);\n"
        "clip_score_emoji and distribution_emoji (painted by a text-to-image model, which --judge DIR looks at),\n"
        "reconstruction_emoji (of an autoencoder);\n"
        "with --data DIR: retrieval, zero_shot, linear_probe, knn, conversations, clip_score, distribution,\n"
        "reconstruction.\n\n"
        "FILE holds {suite: {metric: {value, low, high, chance, blind, n}}}, values in 0..1, low and high the 95 %\n"
        "interval, blind the score with the pictures shuffled; answers have `removed` as well, the score without\n"
        "pictures. Scores of other suites in a workdir's results.json stay."
    )


def run(args: argparse.Namespace) -> int:
    from jvlm.evals.suites import check_names, make_evaluator

    check_names(args.suite)
    evaluators = {name: make_evaluator(name, args.data, args.judge) for name in args.suite}

    from jvlm.cli.answering import load_answerer
    from jvlm.cli.encoding import load_encoder, write_file
    from jvlm.cli.main import print_json
    from jvlm.evals.score import score, subject_of

    makers: dict[str, Callable[[], Any]] = dict(
        encoder=lambda: load_encoder(args, "image")[1],
        reconstructor=lambda: load_encoder(args, "reconstruction")[1],
        answerer=lambda: load_answerer(args, unrolled=False),
        painter=lambda: load_painter(args),
    )
    subjects = {kind: makers[kind]() for kind in set(map(subject_of, evaluators.values()))}
    workdir = find_workdir(Path(args.model))
    results: dict[str, Any] = {}
    for name, evaluator in evaluators.items():
        results[name] = score(name, evaluator, subjects[subject_of(evaluator)], workdir and workdir / "report")
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


def load_painter(args: argparse.Namespace) -> "Painter":
    """The text-to-image model of `--model` over all devices."""
    from jvlm.core.sharding import make_mesh
    from jvlm.evals.painter import Painter
    from jvlm.train.evaluate import load_tower
    from jvlm.train.pretrained import load
    from jvlm.train.runtime import start

    start()
    found = load(args.model)
    variables = {"params": found.params, **found.state}
    return Painter(found.model, variables, found.processor, load_tower, make_mesh(), batch_size=args.batch_size)


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
    from jvlm.evals.metrics import shown

    answers = any("removed" in score for score in scores.values())

    def row(metric: str, s: dict[str, Any]) -> tuple[str, ...]:
        value, low, high, chance, blind = (shown(metric, s[k]) for k in ("value", "low", "high", "chance", "blind"))
        removed = [shown(metric, s["removed"])] if answers else []
        return metric, value, f"{low} to {high}", chance, blind, *removed, str(s["n"])

    rows = [row(metric, score) for metric, score in scores.items()]
    blind = ("shuffled", "no picture") if answers else ("blind",)
    print_table(suite, ("metric", "%", "95 % interval", "chance", *blind, "n"), rows)


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("evaluate", sys.argv[1:]))
