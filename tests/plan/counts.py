"""FLOPs of a CLIP step counted by hand, for the tests of what a plan says."""

from collections.abc import Mapping
from typing import Any


def _block(sequences: int, tokens: int, width: int, hidden: int) -> tuple[int, int]:
    """(all products of a block, the last of them): query, key, value, out; logits and their sum; up, down."""
    rows = sequences * tokens
    down = 2 * rows * width * hidden
    return 2 * rows * 4 * width**2 + 2 * 2 * rows * tokens * width + 2 * down, down


def clip_step(model: Mapping[str, Any], batch: int, *, recompute: bool, loss_units: int) -> int:
    """FLOPs of a training step of CLIP on `batch` pairs.

    Every product once forward and twice backward, but patches are data and have no gradient. recompute: full remat,
    which repeats every product of a block but the last, whose result nobody needs again. loss_units: products of all
    images with all texts.
    """
    total = 0
    for tower in (model["image"], model["text"]):
        width, hidden = tower["width"], tower["mlp_dim"]
        tokens = tower.get("length") or (tower["image_size"] // tower["patch_size"]) ** 2 + 1
        block, down = _block(batch, tokens, width, hidden)
        total += tower["depth"] * (3 * block + (block - down if recompute else 0))
        total += 3 * 2 * batch * width * model["embed_dim"]
        if "patch_size" in tower:
            total += 2 * 2 * batch * (tokens - 1) * 3 * tower["patch_size"] ** 2 * width
    return total + loss_units * 2 * batch**2 * model["embed_dim"]
