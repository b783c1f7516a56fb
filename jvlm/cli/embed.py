"""Embeddings of pictures and texts, of unit norm, in the order given.

example:
  jvlm embed --model clip-vit-base-patch32 --images a.jpg b.jpg --texts "a cat" "a dog" --output embeddings.npz
"""

import argparse
from pathlib import Path

from jvlm.core.errors import ConfigError, UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from jvlm.cli.encoding import add_model_arguments

    add_model_arguments(parser)
    parser.add_argument("--images", nargs="+", default=[], metavar="F", help="picture files")
    parser.add_argument("--texts", nargs="+", default=[], metavar="T", help="texts, each one argument")
    parser.add_argument("--output", required=True, metavar="OUT.npz", help="where the arrays go")
    parser.epilog = (
        "OUT.npz holds float32 `image` [n, E] and `text` [m, E], and with both `logits` [n, m] as the model scales "
        "them.\nPictures and texts are prepared as the directory's own files say."
    )


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.encoding import check_pictures, finite, load_encoder, logits, write_file
    from jvlm.cli.main import print_json

    if not args.images and not args.texts:
        raise ConfigError("nothing to embed; give --images F... or --texts T...")
    if Path(args.output).exists():
        raise UserError(f"{args.output} already exists; choose another file or remove it")
    paths = check_pictures(args.images)

    import io

    import numpy as np

    needs = [side for side, given in (("image", paths), ("text", args.texts)) if given]
    pretrained, encoder = load_encoder(args, *needs)
    arrays = {}
    if paths:
        arrays["image"] = finite(args.model, encoder.images(paths))
    if args.texts:
        arrays["text"] = finite(args.model, encoder.texts(args.texts))
    if len(arrays) == 2:
        arrays["logits"] = logits(pretrained, arrays["image"], arrays["text"])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_file(Path(args.output), buffer.getvalue())
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if args.json:
        print_json({"output": args.output, **shapes})
    else:
        print(f"{args.output}: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
    return 0


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("embed", sys.argv[1:]))
