"""The two sides of `painting.py`, which share their weights through diffusers' files. Neither imports the other's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Works = Callable[[str], Callable[[], Any]]
"""A part's name, `unet_step`, `decode` or `picture`, to the work that returns it as [B, H, W, C] in float32."""
GUIDANCE = 7.5
SCHEDULE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)


def write_weights(settings: Mapping[str, Any], folder: Path) -> None:
    """Random weights of `settings` as diffusers saves them."""
    import diffusers as _diffusers
    import torch

    diffusers: Any = _diffusers  # its classes are loaded lazily, which a type checker does not follow
    torch.manual_seed(0)
    diffusers.UNet2DConditionModel(**settings["unet"]).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(**settings["vae"]).save_pretrained(folder / "vae")


def inputs(settings: Mapping[str, Any], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents [1, h, w, 4] of a picture of `size` and the context [2, 77, D] without and with a text."""
    rng = np.random.default_rng(0)
    side = size // 2 ** (len(settings["vae"]["block_out_channels"]) - 1)
    latents = rng.standard_normal((1, side, side, 4), np.float32)
    return latents, rng.standard_normal((2, 77, settings["unet"]["cross_attention_dim"]), np.float32)


def jvlm(folder: Path, settings: Mapping[str, Any], size: int, steps: int) -> Works:
    """Our side."""
    import jax
    import jax.numpy as jnp

    from jvlm.generate import samplers
    from jvlm.generate.diffusion import guided, run
    from jvlm.generate.steps import Settings, put
    from jvlm.interop.diffusers.component import load_component
    from jvlm.losses.noise import Schedule

    parts = {name: load_component(folder / name) for name in ("unet", "vae")}
    unet, vae = parts["unet"].model.clone(scan=False), parts["vae"].model
    params = {name: part.params for name, part in parts.items()}
    x, context = (jnp.asarray(array) for array in inputs(settings, size))
    plan = put(samplers.plan("ddim", Schedule(), steps, Settings(spacing="leading")))

    def predict(params: Any, x: jax.Array, times: jax.Array, context: jax.Array) -> Any:
        return unet.apply({"params": params["unet"]}, x, times, context)

    def decode(params: Any, x: jax.Array, context: jax.Array) -> Any:
        return vae.apply({"params": params["vae"]}, x / vae.scaling, method="decode")

    def step(params: Any, x: jax.Array, context: jax.Array) -> Any:
        return predict(params, jnp.concatenate([x, x]), jnp.full(2, 500.0), context)

    def picture(params: Any, x: jax.Array, context: jax.Array) -> Any:
        def model(x: jax.Array, times: jax.Array, context: jax.Array) -> Any:
            return predict(params, x, times, context)

        denoise = guided(model, {"context": context[1:]}, {"context": context[:1]}, GUIDANCE)
        return decode(params, run(plan, denoise, x), context)

    works = dict(unet_step=step, decode=decode, picture=picture)

    def work(part: str) -> Callable[[], Any]:
        fn = jax.jit(works[part])
        return lambda: np.asarray(fn(params, x, context))

    return work


def torch(folder: Path, settings: Mapping[str, Any], size: int, steps: int) -> Works:
    """diffusers' side."""
    import diffusers as _diffusers
    import torch

    diffusers: Any = _diffusers
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    latents, told = inputs(settings, size)
    x, context = torch.from_numpy(latents).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(told)
    scheduler = diffusers.DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)

    def predict(x: torch.Tensor, time: Any) -> torch.Tensor:
        return unet(torch.cat([x, x]), time, context).sample

    def decode(x: torch.Tensor) -> torch.Tensor:
        return vae.decode(x / vae.config["scaling_factor"]).sample

    def picture() -> torch.Tensor:
        z = x
        for time in scheduler.timesteps:
            plain, told = predict(z, time).chunk(2)
            z = scheduler.step(plain + GUIDANCE * (told - plain), int(time), z).prev_sample
        return decode(z)

    works = dict(unet_step=lambda: predict(x, 500), decode=lambda: decode(x), picture=picture)

    def work(part: str) -> Callable[[], Any]:
        def once() -> np.ndarray:
            with torch.no_grad():
                return works[part]().permute(0, 2, 3, 1).numpy()

        return once

    return work


SIDES: dict[str, Callable[..., Works]] = dict(jvlm=jvlm, torch=torch)
