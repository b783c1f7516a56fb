"""`jvlm data latents`: the shards that a latent diffusion model is trained on."""

import argparse
import json
from pathlib import Path
from typing import Any

from jvlm.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", nargs="*", metavar="SOURCE", help="pictures with captions; default: what the workdir trained on")
    add("--model", required=True, metavar="DIR", help="an autoencoder's workdir or directory")
    add("--mirror", action="store_true", help="the mirror image of every picture, too")
    add("--shard-mb", type=float, default=256.0, help="size of a shard (default 256)")
    add("--output", required=True, metavar="FOLDER", help="where the shards go")


def run(args: argparse.Namespace, source: Any) -> dict[str, Any]:
    """Encodes `source`, None for the data of the autoencoder's own run, and packs it; what was written."""
    from jvlm.core.sharding import make_mesh
    from jvlm.data.pack import pack
    from jvlm.train.data import make_source
    from jvlm.train.latents import LatentSource
    from jvlm.train.pretrained import load
    from jvlm.train.runtime import start

    start()
    pretrained = load(args.model)
    if source is None:
        config = Path(args.model) / "config.json"
        if not config.is_file():
            raise ConfigError(f"{args.model} is no workdir, so it names no data; give a SOURCE")
        source = make_source(json.loads(config.read_text())["data"])
    latents = LatentSource(source, pretrained, args.mirror, make_mesh())
    return pack(latents, args.output, int(args.shard_mb * 2**20))
