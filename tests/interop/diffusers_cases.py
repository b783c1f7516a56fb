"""diffusers models with random weights, reduced: the configurations that parity is held over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from tests.interop.directories import perturbed
from tests.models_util import inputs
from tests.reference_diffusers import diffusers, torch

Outputs = dict[str, np.ndarray]


def images(x: Any) -> torch.Tensor:
    """[B, H, W, C] as torch's [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def compiled(model: Any, params: Any, given: dict[str, np.ndarray]) -> Any:
    return jax.jit(lambda params, given: model.apply({"params": params}, **given))(params, given)


def channels_last(x: Any) -> np.ndarray:
    return np.asarray(x).transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Case:
    """A reference class with its settings, and how to run it and ours to outputs of the same names."""

    cls: Any
    settings: dict[str, Any]
    reference: Callable[[Any, dict[str, np.ndarray]], Outputs]
    ours: Callable[[Any, Any, dict[str, np.ndarray]], Any]

    def build(self) -> Any:
        torch.manual_seed(0)
        return perturbed(self.cls(**self.settings))

    def inputs(self, model: Any) -> dict[str, np.ndarray]:
        """Two pictures; times, sizes and guidance in the range that they have in use."""
        given = inputs(model, batch=2)
        if "times" in given:
            given["times"] = np.asarray([3.0, 871.0], np.float32)
            if model.guidance_dim is not None:
                given["guidance"] = np.asarray([0.5, 6.5], np.float32)
        if "sizes" in given:
            given["sizes"] = np.asarray([[64, 48, 0, 8, 64, 64], [512, 512, 3, 0, 1024, 512]], np.float32)
        return given


def unet_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    t = {key: torch.from_numpy(np.asarray(value)) for key, value in given.items() if key != "x"}
    options: dict[str, Any] = {}
    if "labels" in t:
        options["class_labels"] = t["labels"].long()
    if "context" in t:
        options["encoder_hidden_states"] = t["context"]
    if "sizes" in t:
        options["added_cond_kwargs"] = dict(text_embeds=t["pooled"], time_ids=t["sizes"])
    if "guidance" in t:
        dim = model.config.time_cond_proj_dim
        pipeline = diffusers.StableDiffusionPipeline
        options["timestep_cond"] = pipeline.get_guidance_scale_embedding(None, t["guidance"], dim)
    with torch.no_grad():
        return dict(out=channels_last(model(images(given["x"]), t["times"], **options).sample))


def unet_ours(model: Any, params: Any, given: dict[str, np.ndarray]) -> Outputs:
    return dict(out=compiled(model, params, given))


def autoencoder_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    with torch.no_grad():
        latents = model.encode(images(given["image"])).latent_dist
        image = model.decode(latents.mean).sample
    return dict(
        image=channels_last(image), mean=channels_last(latents.mean), log_variance=channels_last(latents.logvar)
    )


def autoencoder_ours(model: Any, params: Any, given: dict[str, np.ndarray]) -> Outputs:
    out = compiled(model, params, given)
    return dict(image=out.image, mean=out.latents.mean, log_variance=out.latents.log_variance)


def quantized_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    with torch.no_grad():
        latents = model.encode(images(given["image"])).latents
        chosen, _, (_, _, codes) = model.quantize(latents)
        image = model.decode(latents).sample
    shape = (len(latents), *latents.shape[2:])
    return dict(
        image=channels_last(image),
        latents=channels_last(latents),
        chosen=channels_last(chosen),
        codes=codes.numpy().reshape(shape),
    )


def quantized_ours(model: Any, params: Any, given: dict[str, np.ndarray]) -> Outputs:
    out = compiled(model, params, given)
    return dict(image=out.image, latents=out.latents, chosen=out.chosen, codes=out.codes)


def conditional(**settings: Any) -> Case:
    """A reduced `UNet2DConditionModel`: two levels, attention in the first."""
    small = dict(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return Case(diffusers.UNet2DConditionModel, small | settings, unet_reference, unet_ours)


def pixel(**settings: Any) -> Case:
    """A reduced `UNet2DModel`, attention in the second of two levels."""
    small = dict(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return Case(diffusers.UNet2DModel, small | settings, unet_reference, unet_ours)


def coder(cls: Any, reference: Any, ours: Any, **settings: Any) -> Case:
    small = dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    small |= dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    return Case(cls, small | settings, reference, ours)


CASES: dict[str, Case] = {
    "AutoencoderKL": coder(diffusers.AutoencoderKL, autoencoder_reference, autoencoder_ours, layers_per_block=2),
    "AutoencoderKL of 16 channels": coder(
        diffusers.AutoencoderKL, autoencoder_reference, autoencoder_ours, latent_channels=16, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305,
    ),
    "VQModel": coder(
        diffusers.VQModel, quantized_reference, quantized_ours, num_vq_embeddings=11, vq_embed_dim=4,
        mid_block_add_attention=False,
    ),
    "UNet of SD 1.5": conditional(layers_per_block=2),
    "UNet of SD 2.1, inpainting, distilled, with classes": conditional(
        attention_head_dim=(2, 4), use_linear_projection=True, in_channels=9, num_class_embeds=5, time_cond_proj_dim=6,
        resnet_time_scale_shift="scale_shift", norm_eps=1e-6,
    ),
    "UNet of SDXL": conditional(
        block_out_channels=(8, 12, 16), attention_head_dim=(1, 2, 4), use_linear_projection=True,
        transformer_layers_per_block=(1, 1, 2), addition_embed_type="text_time", addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=10 + 36,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    ),
    "UNet2DModel": pixel(
        attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6
    ),
    "UNet2DModel with classes": pixel(attention_head_dim=4, num_class_embeds=5, add_attention=False),
}  # fmt: skip
