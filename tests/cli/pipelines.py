"""Tiny whole pipelines of diffusers with random weights, and CLIP's own tokenizer."""

import json
from pathlib import Path
from typing import Any

from jvlm.data.tokenizers import clip_tokenizer
from tests.interop.directories import perturbed
from tests.reference import torch, transformers
from tests.reference_diffusers import diffusers

_UNET = dict(
    sample_size=4, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
)  # fmt: skip
_SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)


def tokenizer(folder: Path, pad: str = "<|endoftext|>", length: int = 8) -> Any:
    """A CLIPTokenizer of a small vocabulary: bytes, a few pairs, the two special tokens."""
    files = clip_tokenizer().to_files()
    if not files:
        raise AssertionError("the packaged vocabulary is expected to give its files")
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    config = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad)
    config |= dict(tokenizer_class="CLIPTokenizer", model_max_length=length)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def text(cls: Any, width: int) -> Any:
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=49408,
        max_position_embeddings=8, eos_token_id=49407, projection_dim=10,
    )  # fmt: skip
    return perturbed(cls(config))


def vae() -> Any:
    return perturbed(
        diffusers.AutoencoderKL(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )
    )  # fmt: skip


def small(folder: Path) -> Any:
    """A `StableDiffusionPipeline` with PNDM, as SD 1.5 is released."""
    torch.manual_seed(0)
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text(transformers.CLIPTextModel, 12),
        tokenizer=tokenizer(folder / "words"),
        unet=perturbed(diffusers.UNet2DConditionModel(cross_attention_dim=12, **_UNET)),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, **_SD),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def large(folder: Path) -> Any:
    """A `StableDiffusionXLPipeline` with Euler steps, as SDXL is released."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        cross_attention_dim=20, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=10 + 36, **_UNET,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text(transformers.CLIPTextModel, 12),
        text_encoder_2=text(transformers.CLIPTextModelWithProjection, 8),
        tokenizer=tokenizer(folder / "words"),
        tokenizer_2=tokenizer(folder / "words_2", pad="!"),
        unet=perturbed(unet),
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **_SD),
        add_watermarker=False,
    )


PIPELINES = {"StableDiffusionPipeline": small, "StableDiffusionXLPipeline": large}
