"""Zero-shot classes of pictures: which of the names given fits each best.

example:
  jvlm classify --model clip-vit-base-patch32 --images a.jpg b.jpg --classes cat dog "fire truck" --templates openai_7
"""

import argparse

from jvlm.cli.numbers import whole
from jvlm.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from jvlm.cli.encoding import add_model_arguments

    add_model_arguments(parser)
    parser.add_argument("--images", nargs="+", required=True, metavar="F", help="picture files")
    parser.add_argument("--classes", nargs="+", required=True, metavar="NAME", help="names of the classes")
    parser.add_argument(
        "--templates",
        nargs="+",
        default=["simple"],
        metavar="T",
        help="simple, plain, openai_7, or texts with {} where the class goes (simple)",
    )
    parser.add_argument("--top", type=whole(1), default=5, metavar="K", help="classes shown a picture (5)")
    parser.epilog = (
        "Probabilities are a softmax over the classes, or one sigmoid a class for a model trained so (SigLIP)."
    )


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.encoding import check_pictures, finite, load_encoder, print_table, scale_and_bias
    from jvlm.cli.main import print_json

    if len(set(args.classes)) < len(args.classes):
        twice = next(name for name in args.classes if args.classes.count(name) > 1)
        raise ConfigError(f"--classes names {twice!r} twice")
    paths = check_pictures(args.images)

    from jvlm.evals.zero_shot import class_embeddings, templates_of

    templates = templates_of(args.templates)

    import numpy as np

    pretrained, encoder = load_encoder(args, "image", "text")
    zimg, ztxt = encoder.images(paths), class_embeddings(encoder, args.classes, templates)
    similarity = finite(args.model, zimg) @ finite(args.model, ztxt).T
    scale, bias = scale_and_bias(pretrained)
    logits = scale * similarity.astype(np.float64)
    if bias is None:
        logits = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability = logits / logits.sum(axis=1, keepdims=True)
    else:
        probability = 1 / (1 + np.exp(-(logits + bias)))
    found = []
    for row, close in zip(probability, similarity):
        best = np.argsort(-close, kind="stable")[: args.top]
        found.append(
            [
                {"class": args.classes[at], "probability": float(row[at]), "similarity": float(close[at])}
                for at in best.tolist()
            ]
        )
    if args.json:
        print_json({"images": [{"path": path, "classes": best} for path, best in zip(args.images, found)]})
        return 0
    rows = [
        (path if not at else "", item["class"], f"{item['probability']:.1%}", f"{item['similarity']:.3f}")
        for path, best in zip(args.images, found)
        for at, item in enumerate(best)
    ]
    print_table("", ("picture", "class", "probability", "similarity"), rows)
    return 0


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("classify", sys.argv[1:]))
