"""Finds the pictures of a folder that fit a text, or that look like a picture; embeddings are kept between searches.

example:
  jvlm search --model clip-vit-base-patch32 --folder ~/pictures --text "a dog in the snow" --top 5
"""

import argparse
from pathlib import Path

from jvlm.cli.numbers import whole
from jvlm.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from jvlm.cli.encoding import add_model_arguments

    add_model_arguments(parser)
    parser.add_argument("--folder", required=True, metavar="D", help="pictures here and in folders below")
    parser.add_argument("--text", metavar="T", help="what the pictures should show")
    parser.add_argument("--image", metavar="F", help="what the pictures should look like")
    parser.add_argument("--top", type=whole(1), default=10, metavar="K", help="pictures shown (10)")
    parser.add_argument("--cache", metavar="FILE", help="where embeddings are kept (~/.cache/jvlm/search/...)")
    parser.epilog = (
        "Only pictures whose size or time changed since the last search with the same model are embedded again.\n"
        "Files that cannot be read are named and left out."
    )


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.encoding import check_pictures

    if (args.text is None) == (args.image is None):
        raise ConfigError("give either --text T or --image F to search for")
    query = check_pictures([args.image]) if args.image is not None else []

    from jvlm.evals.class_folder import picture_files

    folder = Path(args.folder).expanduser()
    files = picture_files(folder)

    import sys

    import numpy as np

    from jvlm.cli.encoding import finite, load_encoder, print_table
    from jvlm.cli.main import print_json
    from jvlm.cli.search_index import default_cache, embed_folder, model_fingerprint

    pretrained, encoder = load_encoder(args, "image", *(["text"] if args.text is not None else []))
    model = model_fingerprint(pretrained)
    cache = Path(args.cache).expanduser() if args.cache else default_cache(folder, model)
    # First, since what is embedded of the folder is kept.
    z = finite(args.model, encoder.images(query) if args.text is None else encoder.texts([args.text]))
    index = embed_folder(encoder, folder, files, cache, model)
    similarity = index.embeddings @ z[0]
    best = np.argsort(-similarity, kind="stable")[: args.top].tolist()
    hits = [{"path": str(folder / index.names[at]), "similarity": float(similarity[at])} for at in best]
    if args.json:
        skipped = [{"path": str(folder / name), "reason": reason} for name, reason in index.failures.items()]
        print_json({"results": hits, "searched": len(index.names), "embedded": index.embedded, "skipped": skipped})
        return 0
    for reason in index.failures.values():
        print(f"jvlm search: left out: {reason}", file=sys.stderr)
    print_table("", ("picture", "similarity"), [(hit["path"], f"{hit['similarity']:.3f}") for hit in hits])
    return 0


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("search", sys.argv[1:]))
