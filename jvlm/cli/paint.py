"""Pictures from texts: one prompt or a file of them, from noise, from a picture, or over a part of one.

example:
  jvlm paint --model stable-diffusion-v1-5 --prompt "a red apple" --steps 30 --seed 7 --output apple.png
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jvlm.cli.numbers import number, whole
from jvlm.core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from jvlm.interop.diffusers.schedulers import Process
    from jvlm.interop.pretrained import Pretrained

SETTINGS = (
    "model", "adapter", "weight", "negative", "steps", "guidance", "rescale", "seed", "latents", "image", "strength",
    "mask",
)  # fmt: skip
"""What of the command line each picture says of itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="diffusers directory or workdir of a text-to-image model")
    add("--adapter", action="append", metavar="PATH", help="LoRA file or PEFT directory to paint with; repeat for more")
    add("--weight", action="append", type=float, metavar="W", help="weight of each adapter (1)")
    add("--prompt", metavar="P", help="what to paint")
    add("--prompts", metavar="FILE", help="one prompt a line, instead of --prompt")
    add("--negative", metavar="N", help="what not to paint")
    add("--count", type=whole(1), default=1, metavar="N", help="pictures of each prompt (1)")
    add("--steps", type=whole(1), default=50, metavar="S", help="steps of the sampler (50)")
    add("--sampler", metavar="NAME", help="ddim, euler, dpm++, ...; default: the directory's own")
    add("--guidance", type=float, default=7.5, metavar="G", help="how far to follow the text; 1: no further (7.5)")
    add(
        "--rescale",
        type=number(0, 1),
        default=0.0,
        metavar="R",
        help="share of the deviation that guidance gives back (0)",
    )
    add("--seed", type=int, default=0, metavar="K", help="seed of the noise (0)")
    add("--size", metavar="WxH", help="size in pixels; default: the model's own")
    add("--latents", metavar="L.npy", help="first noise [N, C, h, w], instead of a seed's")
    add("--image", metavar="F", help="picture to start from")
    add("--strength", type=float, metavar="T", help="how much of the steps --image goes through (0.8; 1 with --mask)")
    add("--mask", metavar="F", help="picture that is white where --image is painted over")
    add(
        "--tile",
        type=whole(1),
        metavar="N",
        help="decode pictures larger than N pixels a side in tiles, to save memory",
    )
    add("--batch-size", type=whole(1), default=4, metavar="N", help="pictures computed at once (4)")
    add("--output", required=True, metavar="OUT.png", help="where the picture goes; of several, OUT-0000.png and on")
    add("--sheet", metavar="F", help="all pictures on one sheet")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="precision (float32)")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    parser.epilog = "Each PNG holds its settings as JSON, in the text chunk `jvlm`."


def run(args: argparse.Namespace) -> int:
    prompts = _prompts(args)

    from jvlm.cli.main import print_json
    from jvlm.train.runtime import start

    start(convolves=True)
    pretrained, process = _load(args)
    paths = _paint_all(args, pretrained, process, prompts)
    if args.json:
        print_json(dict(output=[str(path) for path in paths], **_settings(args, process)))
    else:
        print("\n".join(map(str, paths)))
    return 0


def _prompts(args: argparse.Namespace) -> list[str]:
    """Every prompt, `--count` times. ConfigError or UserError for arguments that do not go together."""
    if (args.prompt is None) == (args.prompts is None):
        raise ConfigError("give --prompt P or --prompts FILE, one of the two")
    if (args.mask or args.strength is not None) and not args.image:
        raise ConfigError("--mask and --strength need the --image that they are about")
    if args.latents and args.size:
        raise ConfigError("the size follows --latents; leave --size out")
    for name in (args.image, args.mask, args.latents, args.prompts):
        if name and not Path(name).is_file():
            raise UserError(f"{name}: no such file")
    if args.prompt is not None:
        return [args.prompt] * args.count
    lines = [line.strip() for line in Path(args.prompts).read_text().splitlines()]
    if not any(lines):
        raise UserError(f"{args.prompts} holds no prompt; write one a line")
    return [line for line in lines if line for _ in range(args.count)]


def _load(args: argparse.Namespace) -> "tuple[Pretrained, Process]":
    from dataclasses import replace

    from jvlm import models
    from jvlm.cli.adapters import with_adapters
    from jvlm.interop.diffusers import schedulers
    from jvlm.losses.noise import Schedule
    from jvlm.train.pretrained import load

    pretrained = load(args.model)
    if pretrained.config["family"] != "latent-diffusion":
        raise UserError(f"{args.model}: the model paints nothing; give a whole text-to-image directory")
    if pretrained.processor.tokenizer is None:
        raise UserError(f"{args.model}: the directory has no tokenizer; copy it there from the model's source")
    pretrained, _ = with_adapters(pretrained, args.adapter or [], args.weight)
    raw = pretrained.published.get("scheduler") or schedulers.config(Schedule(**dict(pretrained.model.schedule)))
    process = schedulers.read(raw, args.sampler)
    model = models.create({**pretrained.config, "dtype": args.dtype, "scan": False})
    return replace(pretrained, model=model), process


def _paint_all(
    args: argparse.Namespace, pretrained: "Pretrained", process: "Process", prompts: list[str]
) -> list[Path]:
    import jax.numpy as jnp
    import numpy as np

    from jvlm.cli.painted import Output, initial, put_on_devices, read_picture
    from jvlm.generate import samplers
    from jvlm.generate.diffusion import picture_keys
    from jvlm.generate.painting import Wish, paint
    from jvlm.generate.steps import put

    model, texts = pretrained.model, pretrained.processor.texts
    if args.tile is not None and (args.tile < 4 * model.vae.factor or args.tile % (4 * model.vae.factor)):
        raise ConfigError(f"--tile {args.tile}: give a multiple of {4 * model.vae.factor} pixels")
    noise = initial(args, model, len(prompts))
    picture, mask = read_picture(args, tuple(side * model.vae.factor for side in noise(0, 1).shape[1:3]))
    strength = args.strength if args.strength is not None else 1.0 if args.mask or not args.image else 0.8
    plan = put(samplers.plan(process.sampler, process.schedule, args.steps, process.settings, strength))
    negative = args.negative if args.negative is not None else None if model.zero_negative else ""
    output = Output(Path(args.output), len(prompts), args.sheet)
    shared = _settings(args, process)
    for first in range(0, len(prompts), args.batch_size):
        part = prompts[first : first + args.batch_size]
        count = len(part)
        # The last batch is filled up, so that all have one compiled program.
        rows = min(args.batch_size, len(prompts))
        part += [part[-1]] * (rows - count)
        wish = Wish(
            tokens=texts(part),
            noise=noise(first, rows),
            negative=None if negative is None else texts([negative] * rows),
            keys=picture_keys(args.seed, jnp.arange(first, first + rows)),
            picture=None if picture is None else np.repeat(picture, rows, axis=0),
            mask=None if mask is None else np.repeat(mask, rows, axis=0),
        )
        params, wish = put_on_devices(pretrained.params, wish, rows)
        whole = strength >= 1
        out = paint(
            model, params, wish, plan, guidance=args.guidance, rescale=args.rescale, whole=whole, tile=args.tile
        )
        for index, one in enumerate(out[:count], first):
            output.write(index, one, dict(shared, size=list(one.shape[1::-1]), prompt=prompts[index], index=index))
    return output.finish()


def _settings(args: argparse.Namespace, process: "Process") -> dict[str, Any]:
    return {name: getattr(args, name) for name in SETTINGS} | dict(sampler=process.sampler)


if __name__ == "__main__":
    import sys

    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("paint", sys.argv[1:]))
