"""EfficientNet: mobile inverted bottlenecks with squeeze and excitation, scaled in width and depth together."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import call, lookup
from jvlm.core.sharding import constrain
from jvlm.models.vit import VisionOutput
from jvlm.nn.activations import activation
from jvlm.nn.conv import Conv, Padding
from jvlm.nn.dense import Dense
from jvlm.nn.norms import BatchNorm
from jvlm.nn.remat import REMAT

STEM_WIDTH = 32


class Stage(NamedTuple):
    """A row of the paper's table 1, before scaling: `repeats` blocks, the first of which has the stride."""

    kernel_size: int
    width: int
    stride: int
    repeats: int
    expand: int


class BlockSpec(NamedTuple):
    """One block after scaling. `skip` adds the input to the output."""

    kernel_size: int
    width_in: int
    width: int
    stride: int
    expand: int
    skip: bool
    padding: Padding
    drop: float


B0: tuple[Stage, ...] = (
    Stage(3, 16, 1, 1, 1),
    Stage(3, 24, 2, 2, 6),
    Stage(5, 40, 2, 2, 6),
    Stage(3, 80, 2, 3, 6),
    Stage(5, 112, 1, 3, 6),
    Stage(5, 192, 2, 4, 6),
    Stage(3, 320, 1, 1, 6),
)


class Bottleneck(nn.Module):
    """`x` [B, H, W, D] through expansion, depthwise convolution, squeeze and excitation, projection."""

    spec: BlockSpec
    squeeze_ratio: float
    act: str
    eps: float
    momentum: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        spec, act = self.spec, activation(self.act)
        inner = spec.width_in * spec.expand

        def norm(name: str, axis: str) -> BatchNorm:
            return BatchNorm(self.eps, self.momentum, axis, self.dtype, name=name)

        y = x
        if spec.expand != 1:
            # A convolution of one pixel is a product over the channels, and its kernel 2-D like every other.
            y = Dense(inner, ("embed", "mlp"), use_bias=False, dtype=self.dtype, name="expand")(y)
            y = act(norm("norm_expand", "mlp")(y, train))
        y = Conv(
            inner,
            spec.kernel_size,
            (None, "mlp"),
            strides=spec.stride,
            padding=spec.padding,
            groups=inner,
            use_bias=False,
            dtype=self.dtype,
            name="depthwise",
        )(y)
        y = act(norm("norm_depthwise", "mlp")(y, train))
        squeezed = y.mean(axis=(1, 2))  # [B, inner]
        hidden = max(1, int(spec.width_in * self.squeeze_ratio))
        squeezed = act(Dense(hidden, ("mlp", None), dtype=self.dtype, name="squeeze")(squeezed))
        gate = jax.nn.sigmoid(Dense(inner, (None, "mlp"), dtype=self.dtype, name="excite")(squeezed))
        y = y * gate[:, None, None, :]
        y = Dense(spec.width, ("mlp", "embed"), use_bias=False, dtype=self.dtype, name="project")(y)
        y = norm("norm_project", "embed")(y, train)
        if spec.skip:
            # Stochastic depth (arXiv:1603.09382): the whole branch of a sample is dropped.
            y = x + nn.Dropout(spec.drop, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
        return constrain(y, ("batch", None, None, None))


class EfficientNet(nn.Module):
    """EfficientNet without its classification head (Tan and Le, arXiv:1905.11946).

    `stages` are those of B0, `width_mult` and `depth_mult` the compound scaling. `square_padding` lists the blocks
    with a stride whose padding is symmetric; elsewhere a stride pads more below and to the right, as TensorFlow does
    for even sizes. `image_size` is the size the model is meant for; any other works. Batch statistics are state.
    """

    image_size: int | tuple[int, int]
    width_mult: float = 2.0
    depth_mult: float = 3.1
    width_divisor: int = 8
    stages: tuple[Stage, ...] = B0
    square_padding: tuple[int, ...] = ()
    squeeze_ratio: float = 0.25
    pool: str = "avg"
    drop_connect: float = 0.2
    act: str = "silu"
    eps: float = 1e-3
    momentum: float = 0.99
    remat: str = "none"
    dtype: Any = jnp.float32

    def scaled(self, width: int) -> int:
        """A width times `width_mult`, to the nearest multiple of `width_divisor` that loses at most a tenth."""
        wanted = width * self.width_mult
        step = self.width_divisor
        near = max(step, int(wanted + step / 2) // step * step)
        return near + step if near < 0.9 * wanted else near

    @property
    def width(self) -> int:
        """Width of the output."""
        return self.scaled(self.stages[-1].width)

    @property
    def blocks(self) -> list[BlockSpec]:
        """Every block, in order."""
        specs: list[BlockSpec] = []
        repeats = [math.ceil(self.depth_mult * stage.repeats) for stage in self.stages]
        width_in = self.scaled(STEM_WIDTH)
        for stage, count in zip(self.stages, repeats, strict=True):
            width, half = self.scaled(stage.width), stage.kernel_size // 2
            for position in range(count):
                index = len(specs)
                stride = stage.stride if position == 0 else 1
                before = half if index in self.square_padding else half - 1
                specs.append(
                    BlockSpec(
                        kernel_size=stage.kernel_size,
                        width_in=width_in,
                        width=width,
                        stride=stride,
                        expand=stage.expand,
                        skip=position > 0,
                        padding=((before, half), (before, half)) if stride == 2 else "SAME",
                        drop=self.drop_connect * index / sum(repeats),
                    )
                )
                width_in = width
        return specs

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> VisionOutput:
        act = activation(self.act)
        stem = self.scaled(STEM_WIDTH)
        x = Conv(
            stem, 3, (None, "embed"), 2, ((0, 1), (0, 1)), use_bias=False, dtype=self.dtype, name="stem"
        )(image)  # fmt: skip
        x = act(BatchNorm(self.eps, self.momentum, dtype=self.dtype, name="norm_stem")(x, train))
        block: Any = Bottleneck
        if self.remat != "none":
            policy = lookup(REMAT, self.remat, "remat policy")
            block = nn.remat(Bottleneck, policy=policy, static_argnums=(2,))
        for index, spec in enumerate(self.blocks):
            name = f"block{index}"
            x = block(spec, self.squeeze_ratio, self.act, self.eps, self.momentum, self.dtype, name=name)(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, N, D]
        if self.pool not in ("avg", "max"):
            raise ValueError(f"pooling {self.pool!r} is unknown; valid: avg, max")
        pooled = tokens.mean(axis=1) if self.pool == "avg" else tokens.max(axis=1)
        return VisionOutput(tokens=tokens, pooled=pooled)


def efficientnet(*, stages: Any = B0, square_padding: Any = (), dtype: Any = "float32", **fields: Any) -> EfficientNet:
    """An `EfficientNet` from plain fields; `stages` may be lists, as a JSON file gives them."""
    plain = dict(
        stages=tuple(Stage(*stage) for stage in stages),
        square_padding=tuple(square_padding),
        dtype=jnp.dtype(dtype),
    )
    return call(EfficientNet, fields | plain, "the EfficientNet")
