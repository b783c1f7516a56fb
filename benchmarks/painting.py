"""Stable Diffusion on the CPU: jvlm against diffusers on torch, the same random weights and precision.

    python benchmarks/painting.py [--model sd-1.5] [--size 256] [--steps 20] [--pairs 3] [--cores 2]

A step of the UNet with guidance (a batch of two), the decoding of a picture's latents, and a whole picture: `--steps`
steps of DDIM with guidance, and the decoding. Both sides get the same condition, so that no text tower runs. Prints one
JSON object: the times, the largest difference of the outputs, and the peak memory of each side in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pairs

TOY: dict[str, Any] = dict(
    unet=dict(
        sample_size=4, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=12, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    ),
    vae=dict(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ),
)  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "sd-1.5": dict(
        unet=dict(cross_attention_dim=768),
        vae=dict(
            sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
    ),
    "toy": TOY,
}  # fmt: skip
PARTS = ("unet_step", "decode", "picture")


def measure(name: str, size: int, steps: int, repeats: int, cores: int, memory: bool = False) -> dict[str, Any]:
    """The report for the model `name`, pictures of `size` pixels a side; `memory` with each side's peak, apart."""
    pairs.hold_cores(cores)
    from benchmarks.painting_sides import SIDES, write_weights

    report: dict[str, Any] = dict(model=name, size=size, steps=steps, cores=cores, precision="float32")
    with tempfile.TemporaryDirectory() as folder:
        write_weights(MODELS[name], Path(folder))
        if memory:
            report["peak_mb"] = {side: peak_of(side, folder, name, size, steps, cores) for side in SIDES}
        works = {side: make(Path(folder), MODELS[name], size, steps) for side, make in SIDES.items()}
        for part in PARTS:
            ours, theirs = works["jvlm"](part), works["torch"](part)
            difference = float(np.abs(ours() - theirs()).max())
            report[part] = dict(pairs.alternate(ours, theirs, repeats), largest_difference=difference)
    return report


def peak_of(side: str, folder: str, name: str, size: int, steps: int, cores: int) -> float:
    """Megabytes that a process of its own holds at most while it paints a picture, its libraries included."""
    words = ["--side", side, "--weights", folder, "--model", name, "--size", size, "--steps", steps, "--cores", cores]
    command = [sys.executable, __file__, *map(str, words)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def paint_once(side: str, folder: Path, name: str, size: int, steps: int, cores: int) -> float:
    """What `peak_of` runs: one picture by one side, and the most memory that this took."""
    pairs.hold_cores(cores)
    from benchmarks.painting_sides import SIDES

    SIDES[side](folder, MODELS[name], size, steps)("picture")()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="sd-1.5")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(paint_once(args.side, args.weights, args.model, args.size, args.steps, args.cores))
        return
    print(json.dumps(measure(args.model, args.size, args.steps, args.pairs, args.cores, memory=True)))


if __name__ == "__main__":
    main()
