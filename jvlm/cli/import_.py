"""Reads a published directory into a jvlm workdir, which every verb and `config.init` accept.

example:
  jvlm import clip-vit-base-patch32 imported
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a transformers or open_clip directory, or a big_vision .npz")
    parser.add_argument("target", metavar="DIR", help="the workdir to write; must not exist")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    import jvlm
    from jvlm.cli.main import print_json
    from jvlm.core.tree import count
    from jvlm.interop.weights import check_free

    check_free(Path(args.target))
    source = jvlm.load(args.source)
    jvlm.save(source, args.target, format="jvlm")
    report = dict(directory=args.target, family=source.config["family"], parameters=count(source.params))
    if args.json:
        print_json(report)
    else:
        print(f"wrote {args.target}: {report['family']}, {report['parameters']:,} parameters")
    return 0
