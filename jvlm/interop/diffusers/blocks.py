"""Rules that the tables of diffusers' models share."""

from collections.abc import Iterable
from typing import Any

from jvlm.core.bijections import CONV, POINTWISE, TRANSPOSE
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, rule
from jvlm.interop.hf.blocks import linear, norm
from jvlm.interop.table import Config

# What attention in feature maps was called before diffusers 0.18.
RENAMES = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)


def conv(name: str, path: str) -> list[Rule]:
    """`nn.Conv2d` at `name` and our `Conv` at `path`."""
    return [rule(f"{name}.weight", f"{path}/kernel", CONV), rule(f"{name}.bias", f"{path}/bias")]


def pointwise(name: str, path: str) -> list[Rule]:
    """`nn.Conv2d` of one pixel at `name` and our Dense at `path`."""
    return [rule(f"{name}.weight", f"{path}/kernel", POINTWISE), rule(f"{name}.bias", f"{path}/bias")]


def residual(name: str, path: str, *, time: bool, shortcut: bool) -> list[Rule]:
    """`ResnetBlock2D` at `name` and our `Residual` at `path`."""
    return [
        *norm(f"{name}.norm1", f"{path}/norm_in"),
        *conv(f"{name}.conv1", f"{path}/conv_in"),
        *(linear(f"{name}.time_emb_proj", f"{path}/time") if time else ()),
        *norm(f"{name}.norm2", f"{path}/norm_out"),
        *conv(f"{name}.conv2", f"{path}/conv_out"),
        *(pointwise(f"{name}.conv_shortcut", f"{path}/shortcut") if shortcut else ()),
    ]


def attention(name: str, path: str, bias: bool = True) -> list[Rule]:
    """`Attention` at `name` and ours at `path`, without the normalization before it."""
    parts = [("to_q", "query"), ("to_k", "key"), ("to_v", "value")]
    rules = [r for theirs, ours in parts for r in linear(f"{name}.{theirs}", f"{path}/{ours}", bias)]
    return [*rules, *linear(f"{name}.to_out.0", f"{path}/out")]


def spatial_attention(name: str, path: str) -> list[Rule]:
    """`Attention` with a group norm at `name` and our `SpatialAttention` at `path`."""
    return [*norm(f"{name}.group_norm", f"{path}/norm"), *attention(name, f"{path}/attn")]


def spatial_transformer(name: str, path: str, is_linear: bool) -> list[Rule]:
    """`Transformer2DModel` at `name` and our `SpatialTransformer` at `path`."""
    project = linear if is_linear else pointwise
    block, ours = f"{name}.transformer_blocks.{{}}", f"{path}/blocks/layers"
    return [
        *norm(f"{name}.norm", f"{path}/norm"),
        *project(f"{name}.proj_in", f"{path}/proj_in"),
        *norm(f"{block}.norm1", f"{ours}/norm_attn"),
        *attention(f"{block}.attn1", f"{ours}/attn", bias=False),
        *norm(f"{block}.norm2", f"{ours}/norm_cross"),
        *attention(f"{block}.attn2", f"{ours}/cross", bias=False),
        *norm(f"{block}.norm3", f"{ours}/norm_mlp"),
        rule(f"{block}.ff.net.0.proj.weight", f"{ours}/mlp/up/kernel", TRANSPOSE),
        rule(f"{block}.ff.net.0.proj.bias", f"{ours}/mlp/up/bias"),
        *linear(f"{block}.ff.net.2", f"{ours}/mlp/down"),
        *project(f"{name}.proj_out", f"{path}/proj_out"),
    ]


def per_level(value: Any, levels: int) -> tuple[Any, ...]:
    """A value of a configuration that is given once or for every level."""
    out = tuple(value) if isinstance(value, list | tuple) else (value,) * levels
    if len(out) != levels:
        raise UserError(f"config.json gives {list(out)} for {levels} levels")
    return out


def known_only(config: Config, values: dict[str, Any]) -> None:
    """Raises UserError for a key of `values` that a configuration has with another value than jvlm implements."""
    for key, value in values.items():
        given = config.get(key, value)
        if given != value and not (isinstance(given, Iterable) and list(given) == value):
            raise UserError(f"config.json has {key} = {given!r}; jvlm implements {value!r}")
