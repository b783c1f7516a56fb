"""Merges adapters into a model, takes them out again, or lists what a run would train.

example:
  jvlm adapt clip-vit-base-patch32 --adapter my-lora --merge merged
  jvlm adapt merged --adapter my-lora --unmerge base
  jvlm adapt --list configs/clip_l14_laion_pretrain.py --config.adapter="{'kind': 'lora', 'rank': 8}"
"""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="DIR", help="a model directory, or the workdir of an adapter run")
    parser.add_argument(
        "--adapter", action="append", metavar="PATH", help="a PEFT directory or a LoRA file; repeat to stack several"
    )
    parser.add_argument("--weight", action="append", type=float, metavar="W", help="weight of each adapter (1)")
    parser.add_argument("--merge", metavar="OUT", help="write the model with its adapters merged")
    parser.add_argument("--unmerge", metavar="OUT", help="write the model that the adapter was merged into")
    parser.add_argument("--list", metavar="FILE[:arg]", help="parameters and memory of a configuration's step")
    parser.add_argument("--format", help="format of what is written (default: hf, or diffusers)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.main import print_json
    from jvlm.core.errors import ConfigError

    wanted = [name for name in ("merge", "unmerge", "list") if getattr(args, name)]
    if len(wanted) != 1:
        raise ConfigError("give one of --merge OUT, --unmerge OUT and --list CONFIG")
    if args.list:
        report = listing(args.list, args.overrides)
    elif args.source is None:
        raise ConfigError(f"--{wanted[0]} needs a model directory")
    else:
        report = merged(args) if args.merge else unmerged(args)
    if args.json:
        print_json(report)
    elif args.list:
        show(report)
    else:
        print(f"wrote {report['directory']} ({report['format']}): {wanted[0]}d {', '.join(report['adapters'])}")
    return 0


def adapted(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """The source with its adapters on it at their weights, and their names."""
    from pathlib import Path

    import jvlm
    from jvlm.cli.adapters import with_adapters
    from jvlm.core.errors import ConfigError
    from jvlm.interop.weights import check_free

    check_free(Path(args.merge or args.unmerge))
    model, names = with_adapters(jvlm.load(args.source), args.adapter or [], args.weight)
    if not names and not model.trained:
        raise ConfigError(f"{args.source} has no adapter of its own; give one with --adapter DIR")
    return model, args.adapter or names


def write(args: argparse.Namespace, target: str, model: Any, names: list[str]) -> dict[str, Any]:
    """Writes a plain model, in the format that its own directories have unless another is asked for."""
    import jvlm
    from jvlm.interop.directory import format_of

    chosen = args.format or format_of(model.config["family"])
    jvlm.save(model, target, format=chosen)
    return dict(directory=target, format=chosen, adapters=names)


def merged(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the model with its adapters merged."""
    from dataclasses import replace

    from jvlm.transforms.adapters import merge

    model, names = adapted(args)
    return write(args, args.merge, replace(model, params=merge(model.params), trained=()), names)


def unmerged(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the base of a merged model."""
    from dataclasses import replace

    from jvlm.core.errors import ConfigError
    from jvlm.core.tree import flatten
    from jvlm.transforms.adapters import detach, unmerge

    if not args.adapter:
        raise ConfigError("--unmerge needs the adapter that was merged: --adapter DIR")
    model, names = adapted(args)
    flat = flatten(model.params)
    params, adapters = detach(model.params, {path: flat[path] for path in model.trained}, remember=False)
    return write(args, args.unmerge, replace(model, params=unmerge(params, adapters), trained=()), names)


def listing(spec: str, overrides: list[str]) -> dict[str, Any]:
    """The accounting of a configuration."""
    from jvlm.plan.adapters import account
    from jvlm.train.config import load_config

    config = load_config(spec, overrides)
    adapter: Any = config.get("adapter")
    found = account(config)
    return dict(
        config=spec,
        adapter=adapter["kind"] if adapter else None,
        trainable=found.trainable,
        total=found.total,
        share=found.trainable / found.total,
        bytes={name: getattr(found, name) for name in BYTES},
    )


BYTES = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer and average",
    "activations": "kept for the backward pass",
    "step": "together, all chips",
}


def show(report: dict[str, Any]) -> None:
    """The listing for people."""
    print(f"{report['config']}  adapter: {report['adapter'] or 'none'}")
    print(f"  trainable   {report['trainable']:>15,} of {report['total']:,} ({100 * report['share']:.4f} %)")
    for name, what in BYTES.items():
        print(f"  {name:<11} {report['bytes'][name] / 1e9:>12,.3f} GB  {what}")
    print("  from shapes; the compiler's temporaries come on top")
