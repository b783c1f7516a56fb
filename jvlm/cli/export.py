"""Writes a workdir or a model directory in a format that other libraries open.

example:
  jvlm export runs/demo exported --format hf
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a workdir, a checkpoint step, or a model directory")
    parser.add_argument("target", metavar="DIR", help="the directory to write; must not exist")
    parser.add_argument(
        "--format",
        help="hf, diffusers, open_clip, compressed-tensors, jvlm or, for an adapter, peft and diffusers-lora; default: "
        "hf, or diffusers for what that library has",
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: as stored")
    parser.add_argument("--captions", metavar="FILE", help="count the lines that the two formats tokenize differently")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace
    from pathlib import Path

    import jax

    import jvlm
    from jvlm.cli.main import print_json
    from jvlm.core.build import lookup
    from jvlm.interop.directory import format_of
    from jvlm.interop.weights import check_free
    from jvlm.train.pretrained import FORMATS as WRITERS
    from jvlm.train.pretrained import differing_captions
    from jvlm.transforms.quantize import dequantize_tree

    if args.format:
        lookup(WRITERS, args.format, "format")
    check_free(Path(args.target))
    source = jvlm.load(args.source)
    chosen = args.format or format_of(source.config["family"])
    if args.dtype:
        dense = dequantize_tree(source.params)
        source = replace(source, params=jax.tree.map(lambda x: x.astype(args.dtype), dense))
    jvlm.save(source, args.target, format=chosen)
    report: dict[str, object] = dict(directory=args.target, format=chosen)
    if args.captions:
        captions = [line for line in Path(args.captions).read_text().splitlines() if line.strip()]
        written = jvlm.load(args.target)
        report |= dict(captions=len(captions), tokenized_differently=len(differing_captions(source, written, captions)))
    if args.json:
        print_json(report)
    else:
        print(f"wrote {args.target} ({chosen})")
        if args.captions:
            print(f"{report['tokenized_differently']} of {report['captions']} captions are tokenized differently there")
    return 0
