"""Between a published tensor and our arrays: transposed, split, reshaped, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Bijection:
    """`load` turns a published tensor into our arrays (a tuple), `save` turns them back.

    `region` permutes per-axis entries of our only array (its shape, an index into it) to those of the published
    tensor, so that a host reads its shard alone; None reads the whole tensor.
    """

    name: str
    load: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    save: Callable[..., np.ndarray]
    region: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None


IDENTITY = Bijection("identity", lambda x: (x,), lambda x: x, region=lambda index: index)
TRANSPOSE = Bijection("transpose", lambda x: (x.T,), lambda x: x.T, region=lambda index: index[::-1])
CONV = Bijection("conv", lambda x: (x.transpose(2, 3, 1, 0),), lambda x: x.transpose(3, 2, 0, 1))
"""torch's [out, in, h, w] to ours [h, w, in, out]."""
POINTWISE = Bijection("pointwise", lambda x: (x.reshape(x.shape[:2]).T,), lambda x: x.T[:, :, None, None])
"""torch's [out, in, 1, 1] to ours [in, out]."""


def patch(patch_size: int, channels: int = 3) -> Bijection:
    """A patch convolution [out, in, p, p] to the Dense kernel [(p p in), out]."""

    def save(kernel: np.ndarray) -> np.ndarray:
        out = kernel.shape[-1]
        return kernel.reshape(patch_size, patch_size, channels, out).transpose(3, 2, 0, 1)

    return Bijection("patch", lambda x: (x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),), save)


def lead(axes: int) -> Bijection:
    """A published array without our `axes` leading axes of size one."""
    return Bijection(
        f"lead{axes}",
        lambda x: (x.reshape((1,) * axes + x.shape),),
        lambda x: x.reshape(x.shape[axes:]),
        region=lambda index: index[axes:],
    )


def drop_lead(axes: int) -> Bijection:
    """A published array with `axes` leading axes of size one that ours lacks."""
    return Bijection(f"drop{axes}", lambda x: (x.reshape(x.shape[axes:]),), lambda x: x.reshape((1,) * axes + x.shape))


def columns(parts: int) -> Bijection:
    """A fused tensor, `parts` equal blocks along its last axis: a Conv1D's [in, parts * out], or its bias."""
    return Bijection(
        f"columns{parts}", lambda x: tuple(np.split(x, parts, axis=-1)), lambda *xs: np.concatenate(xs, axis=-1)
    )


def split(parts: int, transpose: bool) -> Bijection:
    """A fused tensor, `parts` equal blocks along its first axis (torch's in_proj_weight), each transposed or not."""
    turn = (lambda x: x.T) if transpose else (lambda x: x)
    return Bijection(
        f"split{parts}",
        lambda x: tuple(turn(part) for part in np.split(x, parts)),
        lambda *xs: np.concatenate([turn(x) for x in xs]),
    )
