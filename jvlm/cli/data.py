"""`jvlm data check` looks through a dataset before a run; `pack` writes tar shards and their indexes, `latents` such
shards of what an autoencoder makes of the pictures.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jvlm.cli import conversations, latents
from jvlm.cli.checked import report, span
from jvlm.cli.numbers import number, whole

EXAMPLE = """examples:
  jvlm data check shards/
  jvlm data check captions.jsonl --json
  jvlm data check llava_instruct.json --images coco/ --model llava-1.5-7b-hf --length 2048
  jvlm data pack pictures/ shards/
  jvlm data pack --index shards/
  jvlm data latents --model runs/autoencoder pictures/ --output latents/
  jvlm data latents --model sdxl-base --buckets variant=sdxl shards/ --output latents/
"""
KINDS = ("tar", "array_record", "parquet", "table", "folder", "coco_captions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `jvlm data`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{check,pack,latents}")
    check = verbs.add_parser("check", help="count samples, and those that could not be used, by cause")
    check.add_argument("paths", nargs="+", help="shards, a table, or a folder; globs and gs:// too")
    check.add_argument("--length", type=whole(1), help="tokens a caption (77) or a conversation (2048) may have")
    check.add_argument(
        "--max-bad", type=number(0, 1), default=0.05, help="exit status 1 above this fraction (default 0.05)"
    )
    check.add_argument("--tokenizer", choices=("transformers", "open_clip"), default="transformers",
                       help="whose CLIP tokenizer counts the tokens")  # fmt: skip
    conversations.add_arguments(check)
    pack = verbs.add_parser("pack", help="folder or table to tar shards; --index for shards that exist")
    pack.add_argument("paths", nargs="+", help="SOURCE... FOLDER, or with --index the shards")
    pack.add_argument("--index", action="store_true", help="only write the index beside each shard")
    pack.add_argument("--index-dir", help="write the indexes there instead")
    pack.add_argument("--shard-mb", type=number(above=0), default=256.0, help="size of a shard (default 256)")
    check.add_argument("--format", choices=(*KINDS, *conversations.FORMATS), help="default: by name and content")
    pack.add_argument("--format", choices=KINDS, help="default: by name and content")
    cached = verbs.add_parser("latents", help="pictures to shards of an autoencoder's latents")
    latents.add_arguments(cached)
    cached.add_argument("--format", choices=KINDS, help="default: by name and content")
    for verb in (check, pack, cached):
        verb.add_argument("--images", metavar="DIR", help="the folder of the pictures, where the data only names them")
        verb.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Runs `args`; the exit status. UserError and ConfigError are the dispatcher's to print."""
    if args.verb == "check":
        return _check(args)
    if args.verb == "latents":
        source = open_source(args.paths, args.format, args.images) if args.paths else None
        return _packed(args, latents.run(args, source))
    return _pack(args)


def open_source(paths: list[str], kind: str | None, images: str | None = None) -> Any:
    """The dataset that `paths` are, by their names unless `kind` says it; `images` is where named pictures lie."""
    from jvlm.core.errors import ConfigError
    from jvlm.data import DATASETS
    from jvlm.data.recognised import recognised

    if kind is None:
        fields = recognised(paths[0]) or {"name": "folder"}
        kind, paths = fields["name"], [fields.get("path", paths[0]), *paths[1:]]
    if kind not in ("table", "folder", "coco_captions"):
        return DATASETS[kind](paths=paths)
    if len(paths) > 1:
        raise ConfigError(f"one {kind} at a time, got {len(paths)}")
    if kind == "coco_captions":
        if images is None:
            raise ConfigError("COCO's captions only name their pictures; give their folder with --images")
        return DATASETS[kind](annotations=paths[0], images=images)
    return DATASETS[kind](path=paths[0], **({"images": images} if kind == "table" and images else {}))


def _check(args: argparse.Namespace) -> int:
    kind = args.format or conversations.kind_of(Path(args.paths[0]))
    if kind in conversations.FORMATS:
        return conversations.check(args, kind)

    from jvlm.data.check import check
    from jvlm.data.tokenizers import clip_tokenizer

    source = open_source(args.paths, kind, args.images)
    result = check(source, clip_tokenizer(args.tokenizer), args.length or 77)
    return report(args, result, _lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    tokens = result["tokens"]
    yield f"samples   {result['samples']} ({result['bytes'] / 1e6:.1f} MB of pictures), {result['good']} good"
    yield f"height    {span(result['height'])}\nwidth     {span(result['width'])}"
    yield f"captions  {result['captions']['total']}, a sample {span(result['captions']['per_sample'])}"
    yield f"tokens    {span(tokens)}; {tokens['truncated']} captions are longer than {tokens['limit']}"
    yield f"labels    {result['labelled']}"
    for cause, count in result["bad"].items():
        yield f"bad       {count} {cause}"
    for message in result["first_bad"]:
        yield f"          {message}"


def _pack(args: argparse.Namespace) -> int:
    from jvlm.core.errors import ConfigError
    from jvlm.data.check import decoded
    from jvlm.data.pack import index, pack

    if args.index:
        result = index(args.paths, args.index_dir)
    elif len(args.paths) < 2:
        raise ConfigError("jvlm data pack needs a source and a folder to write to: jvlm data pack SOURCE FOLDER")
    else:
        kind = args.format or conversations.kind_of(Path(args.paths[0]))
        source = open_source(args.paths[:-1], kind, args.images)
        result = pack(source, args.paths[-1], int(args.shard_mb * 2**20), decoded)
    return _packed(args, result)


def _packed(args: argparse.Namespace, result: dict[str, Any]) -> int:
    truncated = result.get("truncated", [])
    if args.json:
        print(json.dumps(result))
        return 1 if truncated else 0
    print(f"{result['samples']} samples in {result['shards']} shards")
    for cause, count in result.get("skipped", {}).items():
        print(f"left out: {count} {cause}")
    for message in truncated:
        print(f"jvlm data: {message}", file=sys.stderr)
    return 1 if truncated else 0
