"""Pipelines of diffusers under random LoRA, the files that they are saved in, and what they compute."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jvlm.interop.diffusers.lora import FILE
from jvlm.interop.pretrained import Pretrained
from tests.interop.diffusers_cases import channels_last, images
from tests.reference import torch
from tests.reference_diffusers import diffusers
from tests.reference_peft import peft as reference_peft

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
UNET = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "time_emb_proj"]
TEXT = ["q_proj", "out_proj", "fc1"]
TEXTS = ("text_encoder", "text_encoder_2")


def add(pipeline: Any, unet: list[str] = UNET, text: list[str] = TEXT, **settings: Any) -> dict[str, Any]:
    """Random adapters on the parts of a pipeline: (settings, arrays by peft's names) of each."""
    out = {}
    for seed, part in enumerate(("unet", *TEXTS)):
        if (model := getattr(pipeline, part, None)) is None:
            continue
        config = reference_peft.LoraConfig(target_modules=unet if part == "unet" else text, **settings)
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.add_adapter(config)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_" in name:
                        parameter.add_(0.1 * torch.randn_like(parameter))
            out[part] = config.to_dict(), reference_peft.get_peft_model_state_dict(model)
    return out


def write(tensors: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True)
    arrays = {name: x.numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for name, x in tensors.items()}
    save_file(arrays, folder / FILE)
    return folder


def fresh(directory: Path, kind: str) -> Any:
    """The pipeline of a directory, without adapters."""
    return getattr(diffusers, kind).from_pretrained(directory)


def theirs(pipeline: Any, x: np.ndarray, texts: list[str]) -> np.ndarray:
    """The prediction of a pipeline's UNet for latents `x` and texts, at time 7."""
    words = dict(padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        tokens = pipeline.tokenizer(texts, **words).input_ids
        if not hasattr(pipeline, "text_encoder_2"):
            out = pipeline.unet(images(x), 7, pipeline.text_encoder(tokens).last_hidden_state)
            return channels_last(out.sample)
        own = pipeline.text_encoder(tokens, output_hidden_states=True)
        other = pipeline.text_encoder_2(pipeline.tokenizer_2(texts, **words).input_ids, output_hidden_states=True)
        told = torch.cat([own.hidden_states[-2], other.hidden_states[-2]], -1)
        added = dict(text_embeds=other[0], time_ids=torch.tensor([[8, 8, 0, 0, 8, 8]] * len(x)))
        return channels_last(pipeline.unet(images(x), 7, told, added_cond_kwargs=added).sample)


def ours(m: Pretrained, x: np.ndarray, texts: list[str]) -> np.ndarray:
    """The same of ours."""

    @jax.jit
    def run(params: Any, tokens: Any) -> jax.Array:
        def apply(method: str, *args: Any) -> Any:
            return m.model.apply({"params": params}, *args, method=method)

        return apply("predict", jnp.asarray(x), jnp.full(len(x), 7.0), apply("condition", tokens), (8, 8))

    return np.asarray(run(m.params, jnp.asarray(m.processor.texts(texts))))
