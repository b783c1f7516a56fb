"""How a multimodal reference is run on our inputs."""

from typing import Any

import numpy as np

from tests.interop.hf_runs import Outputs, pixels, seen
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
