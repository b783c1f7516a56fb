"""Trains a model from a configuration; run again with the same workdir to resume.

example:
  jvlm train --config configs/clip_tiny_emoji_pretrain.py --workdir runs/demo --config.optimizer.lr=1e-3
"""

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE[:arg]", help="configuration file or shipped name")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where everything of the run is written")
    parser.add_argument("--json", action="store_true", help="print the final status as one JSON object")
    parser.epilog = "Any key of the configuration is overridden by --config.KEY=VALUE."
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.main import print_json
    from jvlm.train.config import load_config
    from jvlm.train.loop import train
    from jvlm.train.runtime import start

    config = load_config(args.config, args.overrides)
    start()
    status = train(config, args.workdir, quiet=args.json)
    if args.json:
        print_json(status)
    else:
        say(Path(args.workdir), status)
    return 1 if status["status"] == "failed" else 0


def say(workdir: Path, status: dict[str, Any]) -> None:
    """The end of a run in a few lines: its results, and where everything lies."""
    from jvlm.cli.evaluate import read_results, show

    if status["status"] != "finished":
        print(f"{status['status']} at step {status['step']} ({status['reason']}); run the same command to go on")
        return
    for suite, scores in read_results(workdir / "results.json").items():
        show(suite, scores)
    print(f"finished at step {status['step']}")
    for name, what in (("export", "the model, as other libraries open it"), ("report.html", "curves and examples")):
        if (workdir / name).exists():
            print(f"  {workdir / name}  {what}")


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("train", sys.argv[1:]))
