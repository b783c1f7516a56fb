"""`jvlm data latents`: the shards that a latent diffusion model is trained on."""

import argparse
import json
from pathlib import Path
from typing import Any

from jvlm.cli.numbers import number
from jvlm.core.errors import ConfigError
from jvlm.core.literals import assigned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", nargs="*", metavar="SOURCE", help="pictures with captions; default: what the workdir trained on")
    add("--model", required=True, metavar="DIR", help="an autoencoder's workdir or directory")
    add("--mirror", action="store_true", help="the mirror image of every picture, too")
    add(
        "--buckets",
        metavar="FIELD=VALUE,...",
        help="keep aspect ratios: the pipeline.buckets of the training, such as variant=sdxl or side=512,step=64",
    )
    add("--shard-mb", type=number(above=0), default=256.0, help="size of a shard (default 256)")
    add("--output", required=True, metavar="FOLDER", help="where the shards go")


def run(args: argparse.Namespace, source: Any) -> dict[str, Any]:
    """Encodes `source`, None for the data of the autoencoder's own run, and packs it; what was written."""
    from jvlm.core.sharding import make_mesh
    from jvlm.data.buckets import Buckets
    from jvlm.data.pack import pack, pack_parts
    from jvlm.train.data import make_source
    from jvlm.train.latents import LatentSource, bucketed
    from jvlm.train.pretrained import load
    from jvlm.train.runtime import start

    start()
    pretrained = load(args.model)
    if source is None:
        config = Path(args.model) / "config.json"
        if not config.is_file():
            raise ConfigError(f"{args.model} is no workdir, so it names no data; give a SOURCE")
        source = make_source(json.loads(config.read_text())["data"])
    mesh, shard_bytes = make_mesh(), int(args.shard_mb * 2**20)
    if args.buckets:
        parts = bucketed(source, pretrained, Buckets.of(fields(args.buckets)), args.mirror, mesh)
        return pack_parts(parts, args.output, shard_bytes)
    return pack(LatentSource(source, pretrained, args.mirror, mesh), args.output, shard_bytes)


def fields(text: str) -> dict[str, Any]:
    """Those of `--buckets`."""
    return assigned(text, f"--buckets {text}", "side=1024,step=64 or variant=sdxl")
