"""FLOPs of HLO's matrix products and convolutions, and of the attention kernel."""

import re
from math import prod

import numpy as np

from jvlm.plan.hlo_text import dims


def convolution_flops(shape: str, image: str, kernel: str, attributes: str) -> int:
    """FLOPs of an HLO convolution: two for each factor pair that is neither padding nor a gap of a dilation.

    A TPU compiler writes matrix products as convolutions too, some of them with windows that lie mostly in padding.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        raise ValueError(f"convolution without dim_labels: {attributes[:120]}")
    image_sizes, kernel_sizes, out_sizes = (
        dict(zip(names, dims(s))) for names, s in zip(labels.groups(), (image, kernel, shape))
    )
    flops = 2 * out_sizes["b"] * out_sizes["f"] * kernel_sizes["i"]
    window = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(item.split("=") for item in window.group(1).split()) if window else {}
    for axis in sorted(set(kernel_sizes) - set("io")):
        place = int(axis)
        stride, image_gap, kernel_gap = (
            _window(settings, name, place, "1") for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(_window_text(settings, "pad", place, "0_0").split("_")[0])
        flops *= window_positions(
            image_sizes[axis],
            kernel_sizes[axis],
            out_sizes[axis],
            stride=stride,
            low=low,
            image_gap=image_gap,
            kernel_gap=kernel_gap,
        )
    return flops


def window_positions(
    image: int, kernel: int, out: int, *, stride: int, low: int, image_gap: int, kernel_gap: int
) -> int:
    """Pairs of an output and a kernel position along an axis that meet a pixel, not padding or a gap of a dilation."""
    positions = np.arange(out)[:, None] * stride - low + np.arange(kernel)[None, :] * kernel_gap
    extent = (image - 1) * image_gap + 1
    return int(np.sum((positions >= 0) & (positions < extent) & (positions % image_gap == 0)))


def _window_text(settings: dict[str, str], name: str, place: int, default: str) -> str:
    return settings[name].split("x")[place] if name in settings else default


def _window(settings: dict[str, str], name: str, place: int, default: str) -> int:
    return int(_window_text(settings, name, place, default))


def dot_flops(shape: str, operands: list[str], attributes: str) -> int:
    """FLOPs of an HLO dot with these shapes of its result and operands."""
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
    sizes = dims(operands[0])
    depth = prod(sizes[int(i)] for i in contracted.group(1).split(",") if i) if contracted else 1
    return 2 * prod(dims(shape)) * depth


SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
"""Products of a tile by the kernel: logits and weighted values; backward logits and weights' slopes again in each."""


def splash_flops(operands: list[str], attributes: str) -> int:
    """FLOPs of a call of `nn.splash`'s kernels, of whose tiles the operation's name tells; 0 of another call."""
    found = re.search(r"splash_pairs_(\d+).*splash_m[hq]a_(fwd|dq|dkv)", attributes)
    if found is None:
        return 0
    query = next(dims(shape) for shape in operands if shape.startswith(("bf16", "f")))  # [..., T, D]
    return SPLASH_PRODUCTS[found.group(2)] * 2 * prod(query[:-2]) * int(found.group(1)) * query[-1]
