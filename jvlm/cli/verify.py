"""Checks that a directory is complete, finite and self-consistent, and names what is not.

example:
  jvlm verify runs/demo
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a model directory, or a workdir (every checkpoint in it)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.main import print_json
    from jvlm.train.verify import verify

    problems = verify(args.directory)
    if args.json:
        print_json(dict(directory=args.directory, ok=not problems, problems=problems))
    elif problems:
        print("\n".join(problems))
    else:
        print(f"{args.directory}: complete, finite and self-consistent")
    return 1 if problems else 0
