"""Published sizes of diffusion models and autoencoders, and the references built at them."""

from collections.abc import Callable
from typing import Any

from tests.reference import torch, transformers
from tests.reference_diffusers import diffusers

# As the releases count them.
COUNTS = {
    ("autoencoder", "sd"): 83_653_863,
    ("autoencoder", "sdxl"): 83_653_863,
    ("clip-text", "sd-1.5"): 123_060_480,
    ("clip-text", "sdxl-2"): 694_659_840,
    ("unet", "sd-1.5"): 859_520_964,
    ("unet", "sd-1.5-inpainting"): 859_535_364,
    ("unet", "sd-2.1"): 865_910_724,
    ("unet", "sdxl"): 2_567_463_684,
    ("unet", "ddpm-cifar10"): 35_746_307,
}


def autoencoder(variant: str) -> Any:
    own: dict[str, Any] = dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **(own if variant == "sd3" else {}),
    )


def clip_text(variant: str) -> Any:
    width, depth = {"sd-1.5": (768, 12), "sd-2.1": (1024, 23), "sdxl-2": (1280, 32)}[variant]
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth, num_attention_heads=width // 64,
        projection_dim=width,
    )  # fmt: skip
    cls = transformers.CLIPTextModelWithProjection if variant == "sdxl-2" else transformers.CLIPTextModel
    return cls(config)


def vq(variant: str) -> Any:
    return diffusers.VQModel(
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        num_vq_embeddings=8192,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def unet(variant: str) -> Any:
    if variant == "ddpm-cifar10":
        return diffusers.UNet2DModel(
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
        )
    if variant == "sdxl":
        return diffusers.UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    settings: dict[str, Any] = dict(cross_attention_dim=768)
    if variant == "sd-2.1":
        settings = dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)
    return diffusers.UNet2DConditionModel(in_channels=9 if "inpainting" in variant else 4, **settings)


def latent_diffusion(variant: str) -> Any:
    parts = [unet(variant), autoencoder("sd"), clip_text("sd-2.1" if variant == "sd-2.1" else "sd-1.5")]
    return torch.nn.ModuleList([*parts, clip_text("sdxl-2")] if variant == "sdxl" else parts)


REFERENCES: dict[str, Callable[[str], Any]] = {
    "autoencoder": autoencoder,
    "clip-text": clip_text,
    "latent-diffusion": latent_diffusion,
    "unet": unet,
    "vq": vq,
}
