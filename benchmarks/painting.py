"""Painting on the CPU: jvlm against diffusers on torch, one directory of Stable Diffusion's shape opened by both.

    python benchmarks/painting.py [--size sd-1.5] [--pixels 256] [--steps 20] [--pairs 5] [--cores 2] [--directory DIR]

The directory holds a `StableDiffusionPipeline` with random weights in float32; `--size half` halves every width. Timed
are one step of the UNet with guidance (two latents), the decoding of one picture, and a whole picture as `jvlm paint`
and the pipeline make it, DDIM with guidance 7.5. Peak memory is that of a fresh process for each side that opens the
directory and paints one picture: the most that was resident, mapped files and compilation included. Prints one JSON
object; exits 1 where a ratio is below 0.8 or the peak above diffusers'. `sd-1.5` needs 14 GB and a quarter of an hour.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pairs

LOWEST = 0.8
PROMPT, NEGATIVE, GUIDANCE = "a red apple on a wooden table, morning light", "blurry", 7.5
SIZES: dict[str, dict[str, Any]] = {
    "sd-1.5": dict(unet=(320, 640, 1280, 1280), vae=(128, 256, 512, 512), text=768, depth=12, groups=32),
    "half": dict(unet=(160, 320, 640, 640), vae=(64, 128, 256, 256), text=384, depth=12, groups=32),
    "toy": dict(unet=(8, 16), vae=(8, 16), text=16, depth=1, groups=4),
}

Side = dict[str, Callable[[], np.ndarray]]
"""`unet`, `decode` and `picture`, each the arrays that it computed, channels last."""


def write(size: str, folder: Path) -> None:
    """A `StableDiffusionPipeline` with random weights."""
    from tests.cli.pipelines import tokenizer
    from tests.reference import torch, transformers
    from tests.reference_diffusers import diffusers

    fields = SIZES[size]
    torch.manual_seed(0)
    levels, deep = len(fields["unet"]), len(fields["unet"]) - 1
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=fields["unet"], cross_attention_dim=fields["text"], norm_num_groups=fields["groups"],
        down_block_types=("CrossAttnDownBlock2D",) * deep + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * deep,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=fields["vae"], layers_per_block=2, norm_num_groups=fields["groups"],
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
    )  # fmt: skip
    width = fields["text"]
    text = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=fields["depth"],
        num_attention_heads=max(width // 64, 1), vocab_size=49408, eos_token_id=49407,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as words:
        pipeline = diffusers.StableDiffusionPipeline(
            vae=vae, unet=unet, text_encoder=transformers.CLIPTextModel(text),
            tokenizer=tokenizer(Path(words) / "words", length=77),
            scheduler=diffusers.DDIMScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
                set_alpha_to_one=False,
            ),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(folder)


def inputs(size: str, pixels: int) -> dict[str, np.ndarray]:
    """`x` [2, h, w, 4] and `context` [2, 77, D] for the UNet, `noise` [1, h, w, 4] for the decoder and a picture."""
    fields, rng = SIZES[size], np.random.default_rng(0)
    side = pixels // 2 ** (len(fields["vae"]) - 1)
    shapes = dict(x=(2, side, side, 4), context=(2, 77, fields["text"]), noise=(1, side, side, 4))
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def jvlm_side(folder: Path, given: dict[str, np.ndarray], steps: int) -> Side:
    import jax

    import jvlm
    from jvlm import models
    from jvlm.generate import painting, samplers
    from jvlm.generate.steps import put
    from jvlm.interop.diffusers import schedulers
    from jvlm.models.latent_diffusion import Condition

    opened = jvlm.load(folder)
    # As `jvlm paint` does.
    model: Any = models.create({**opened.config, "scan": False})
    process = schedulers.read(opened.published["scheduler"])
    plan = put(samplers.plan(process.sampler, process.schedule, steps, process.settings))
    params, texts = opened.params, opened.processor.texts
    size = tuple(extent * model.vae.factor for extent in given["x"].shape[1:3])
    arrays = {name: jax.device_put(value) for name, value in given.items()}

    @jax.jit
    def predict(params: Any, x: jax.Array, context: jax.Array) -> Any:
        times = jax.numpy.full(x.shape[0], 501.0)
        return model.apply({"params": params}, x, times, Condition(context), size, method="predict")

    def picture() -> np.ndarray:
        wish = painting.Wish(tokens=texts([PROMPT]), noise=arrays["noise"], negative=texts([NEGATIVE]))
        return painting.paint(model, params, wish, plan, guidance=GUIDANCE)

    return dict(
        unet=lambda: np.asarray(predict(params, arrays["x"], arrays["context"])),
        decode=lambda: np.asarray(painting.decode(model, params, arrays["noise"])),
        picture=picture,
    )


def torch_side(folder: Path, given: dict[str, np.ndarray], steps: int, cores: int) -> Side:
    from tests.reference_diffusers import diffusers, torch

    torch.set_num_threads(cores)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    arrays = {name: torch.from_numpy(value) for name, value in given.items()}
    for name in ("x", "noise"):
        arrays[name] = arrays[name].permute(0, 3, 1, 2).contiguous()

    def run(work: Callable[[], Any]) -> Callable[[], np.ndarray]:
        def call() -> np.ndarray:
            with torch.inference_mode():
                return work().permute(0, 2, 3, 1).numpy()

        return call

    scaling = pipeline.vae.config.scaling_factor
    side = given["x"].shape[1] * pipeline.vae_scale_factor
    settings = dict(num_inference_steps=steps, guidance_scale=GUIDANCE, negative_prompt=NEGATIVE)

    def picture() -> np.ndarray:
        latents = arrays["noise"]
        out = pipeline(PROMPT, latents=latents, height=side, width=side, output_type="np", **settings)
        return np.round(out.images * 255)

    return dict(
        unet=run(lambda: pipeline.unet(arrays["x"], 501, encoder_hidden_states=arrays["context"]).sample),
        decode=run(lambda: pipeline.vae.decode(arrays["noise"] / scaling).sample),
        picture=picture,
    )


def side_of(name: str, folder: Path, size: str, pixels: int, steps: int, cores: int) -> Side:
    """`jvlm` or `torch`."""
    given = inputs(size, pixels)
    return jvlm_side(folder, given, steps) if name == "jvlm" else torch_side(folder, given, steps, cores)


def resident() -> int:
    """The most bytes that this process had in memory at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peaks(folder: Path, options: list[str]) -> dict[str, int]:
    """The peak of a fresh process that paints one picture, for each side."""
    command = [sys.executable, __file__, "--directory", str(folder), *options]
    found = {}
    for name in ("jvlm", "torch"):
        out = subprocess.run([*command, "--alone", name], capture_output=True, text=True, check=True).stdout
        found[name] = json.loads(out.splitlines()[-1])
    return found


def measure(folder: Path, size: str, pixels: int, steps: int, repeats: int, cores: int) -> dict[str, Any]:
    """The three works timed in pairs, with how far the two sides' results are apart."""
    sides = [side_of(name, folder, size, pixels, steps, cores) for name in ("jvlm", "torch")]
    report: dict[str, Any] = {}
    for work in sides[0]:
        ours, theirs = (side[work] for side in sides)
        difference = float(np.abs(np.asarray(ours(), np.float32) - theirs()).max())
        report[work] = {**pairs.alternate(ours, theirs, repeats), "largest_difference": difference}
    return report


def missed(report: dict[str, Any]) -> list[str]:
    """Which of the promises a report breaks."""
    slow = [work for work in ("unet", "decode", "picture") if report[work]["wall"]["ratio"] < LOWEST]
    return slow + ["peak"] * (report["peak_bytes"]["jvlm"] > report["peak_bytes"]["torch"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd-1.5")
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="where the weights are or go (a temporary one, deleted)")
    parser.add_argument("--alone", choices=("jvlm", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = (args.size, args.pixels, args.steps)
    pairs.hold_cores(args.cores, convolves=True)  # as `jvlm paint` does
    if args.alone:
        side_of(args.alone, args.directory, *shape, args.cores)["picture"]()
        print(resident())
        return 0
    report: dict[str, Any] = {"benchmark": "painting", "size": args.size, "pixels": args.pixels, "steps": args.steps}
    report |= {"precision": "float32", "cores": args.cores, "pairs": args.pairs}
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.directory or Path(scratch, "model")
        if not folder.exists():
            write(args.size, folder)
        options = [f"--{name}={getattr(args, name)}" for name in ("size", "pixels", "steps", "cores")]
        report["peak_bytes"] = peaks(folder, options)
        report |= measure(folder, *shape, args.pairs, args.cores)
    report["missed"] = missed(report)
    print(json.dumps(report))
    return int(bool(report["missed"]))


if __name__ == "__main__":
    sys.exit(main())
