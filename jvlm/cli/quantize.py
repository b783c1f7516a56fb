"""Writes a directory with weights in few bits, and a receipt of what that costs.

example:
  jvlm quantize clip-vit-base-patch32 clip-nf4 --scheme nf4 --double
  jvlm quantize runs/demo demo-int4 --scheme int4 --suite retrieval_style --max-drop 0.05
"""

import argparse

from jvlm.cli.numbers import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DIR", help="a model directory, a workdir or a checkpoint step")
    parser.add_argument("target", metavar="OUT", help="the directory to write; must not exist")
    parser.add_argument("--scheme", required=True, help="nf4, int4, int8, int4_asym or int8_asym")
    parser.add_argument(
        "--group", type=whole(0), default=64, metavar="N", help="inputs that share a scale (64); 0: all of a column"
    )
    parser.add_argument("--double", action="store_true", help="quantize the scales, too (with nf4: 4.13 bits a value)")
    parser.add_argument(
        "--targets", nargs="+", default=["*kernel"], metavar="PATTERN", help="paths of kernels and tables (*kernel)"
    )
    parser.add_argument("--calibrate", metavar="METHOD", help="gptq or awq: round by what flows through the model")
    parser.add_argument(
        "--format", default="jvlm", help="jvlm (default), or compressed-tensors, which transformers opens (int4, int8)"
    )
    parser.add_argument("--suite", metavar="NAME", help="an evaluation of `jvlm evaluate`, before and after")
    parser.add_argument("--data", metavar="DIR", help="data of the suite, of calibration and of the cosines")
    parser.add_argument(
        "--max-drop", type=float, metavar="X", help="write nothing when a metric drops by more (a fraction, 0.01)"
    )
    parser.add_argument("--json", action="store_true", help="print the receipt as one JSON object")
    parser.epilog = (
        "OUT holds receipt.json and receipt.html: bytes before and after, the error of each layer, the worst layers,\n"
        "the cosine of embeddings before and after (pictures and captions of --data, else of the emoji in the\n"
        "package), and the change of --suite. An adapter over quantized weights is merged and rounded as its base was."
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from jvlm.cli.main import print_json
    from jvlm.train.quantize import Recipe, quantize_directory

    recipe = Recipe(
        scheme=args.scheme,
        group=args.group or None,
        double=args.double,
        targets=tuple(args.targets),
        calibrate=args.calibrate,
        format=args.format,
        suite=args.suite,
        data=args.data,
        max_drop=args.max_drop,
    )
    receipt = quantize_directory(args.source, Path(args.target), recipe)
    if args.json:
        print_json(receipt)
    else:
        show(args.target, receipt)
    return 0


def show(target: str, receipt: dict) -> None:
    """The receipt's main lines."""
    sizes = receipt["bytes"]
    print(f"{target}: {sizes['after'] / 1e6:.1f} MB of {sizes['before'] / 1e6:.1f} MB ({sizes['ratio']:.3f})")
    for side, c in receipt["cosine"].items():
        print(f"cosine of {c['n']} {side} before and after: mean {c['mean']:.4f}, lowest {c['lowest']:.4f}")
    for row in receipt["worst"][:3]:
        layer = "" if row["layer"] is None else f" layer {row['layer']}"
        print(f"relative error {row['error']:.4f} in {row['path']}{layer}")
    for path, why in receipt["left"].items():
        print(f"left as it was: {path} ({why})")
    for metric, v in receipt.get("evaluation", {}).items():
        print(f"{receipt['suite']} {metric}: {100 * v['before']:.2f} % to {100 * v['after']:.2f} %")


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("quantize", sys.argv[1:]))
