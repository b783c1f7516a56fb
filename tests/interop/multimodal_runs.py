"""How a multimodal reference is run on our inputs."""

from typing import Any

import jax
import numpy as np

from jvlm.losses.similarity import max_over_queries
from tests.interop.hf_runs import Outputs, arrays, pixels, seen
from tests.reference import torch


def pictures(image: np.ndarray) -> torch.Tensor:
    """[B, M, H, W, C] to the references' [B M, C, H, W]."""
    return pixels(image.reshape(-1, *image.shape[2:]))


def multimodal_reference(model: Any, given: dict[str, np.ndarray], **more: Any) -> Outputs:
    mask = given.get("mask", np.ones_like(given["tokens"]))
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(given["tokens"]).long(),
            pixel_values=pictures(given["image"]),
            attention_mask=torch.from_numpy(mask).long(),
            **more or dict(position_ids=torch.from_numpy(positions).long()),
        )
    return dict(logits=seen(out.logits.numpy(), given))


def instruct_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    asked = dict(
        qformer_input_ids=torch.from_numpy(given["question"]).long(),
        qformer_attention_mask=torch.from_numpy(given["question_mask"]).long(),
    )
    return multimodal_reference(model, given, **asked)


def matcher_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    tokens = torch.from_numpy(given["tokens"]).long()
    inputs: dict[str, Any] = dict(
        pixel_values=pixels(given["image"]), input_ids=tokens, attention_mask=(tokens != 0).long()
    )
    with torch.no_grad():
        contrast = model(**inputs)
        matched = model(**inputs, use_image_text_matching_head=True).logits_per_image
    return arrays(
        zimg=contrast.image_embeds, ztxt=contrast.text_embeds, similarity=contrast.logits_per_image, matched=matched
    )


def matcher_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> Outputs:
    def run(variables: Any, image: jax.Array, tokens: jax.Array) -> dict[str, Any]:
        out = model.apply(variables, image, tokens)
        features = model.apply(variables, image, method="features")
        matched = model.apply(variables, features, tokens, method="matched")
        similarity = max_over_queries(out.zimg, out.ztxt, None)
        return dict(zimg=out.zimg, ztxt=out.ztxt, similarity=similarity, matched=matched)

    return jax.jit(run)(variables, **given)


SIZES = [(20, 40), (30, 12), (40, 40)]
"""Pixels of the pictures that LLaVA-NeXT is shown, (height, width)."""


def tiles_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    image = given["image"]
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(given["tokens"]).long(),
            pixel_values=pictures(image).reshape(*image.shape[:2], 3, *image.shape[2:4]),
            image_sizes=torch.tensor(SIZES),
            attention_mask=torch.from_numpy(given["mask"]).long(),
            position_ids=torch.from_numpy(np.maximum(np.cumsum(given["mask"], axis=1) - 1, 0)).long(),
        )
    return dict(logits=seen(out.logits.numpy(), given))


def prefix_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    kinds = 1 - torch.from_numpy(given["prefix"]).long()
    return multimodal_reference(model, given, token_type_ids=kinds)


def interleaved_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    image, tokens = given["image"], given["tokens"]
    last = np.cumsum(tokens == model.config.vocab_size + 1, axis=1) - 1
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=pictures(image).reshape(*image.shape[:2], 3, *image.shape[2:4]),
            image_attention_mask=torch.from_numpy(last[:, :, None] == np.arange(image.shape[1])).long(),
            attention_mask=torch.from_numpy(given["mask"]).long(),
        )
    return dict(logits=seen(out.logits.numpy(), given))
