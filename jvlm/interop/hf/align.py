"""`transformers.AlignModel` directories."""

from typing import Any

import numpy as np

from jvlm.core.bijections import CONV, POINTWISE
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, constant, nest, rule
from jvlm.interop.hf import bert
from jvlm.interop.hf.blocks import act_from, act_to, linear, norm
from jvlm.interop.table import Config, Table, require, size, unsize
from jvlm.models.dual_encoder import DualEncoder
from jvlm.models.efficientnet import STEM_WIDTH, EfficientNet, Stage

_VISION: dict[str, Any] = dict(
    image_size=600,
    width_coefficient=2.0,
    depth_coefficient=3.1,
    depth_divisor=8,
    kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
    in_channels=[32, 16, 24, 40, 80, 112, 192],
    out_channels=[16, 24, 40, 80, 112, 192, 320],
    depthwise_padding=[],
    strides=[1, 2, 2, 2, 1, 2, 1],
    num_block_repeats=[1, 2, 2, 3, 3, 4, 1],
    expand_ratios=[1, 6, 6, 6, 6, 6, 6],
    squeeze_expansion_ratio=0.25,
    hidden_act="swish",
    pooling_type="mean",
    batch_norm_eps=0.001,
    batch_norm_momentum=0.99,
    drop_connect_rate=0.2,
)
_POOLS = {"mean": "avg", "max": "max"}


def _stages(c: dict[str, Any]) -> list[Stage]:
    widths = [STEM_WIDTH, *c["out_channels"][:-1]]
    if list(c["in_channels"]) != widths:
        raise UserError(
            f"config.json has in_channels = {list(c['in_channels'])}, but its out_channels lead to {widths}"
        )
    columns = (c["kernel_sizes"], c["out_channels"], c["strides"], c["num_block_repeats"], c["expand_ratios"])
    return [Stage(*row) for row in zip(*columns, strict=True)]


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.align` from an AlignConfig."""
    c = _VISION | dict(config.get("vision_config") or {})
    require(c, "num_channels", 3)
    require(c, "pooling_type", *_POOLS)
    return dict(
        embed_dim=config.get("projection_dim", 640),
        scale_init=1 / config.get("temperature_init_value", 1.0),
        image=dict(
            image_size=size(c["image_size"]),
            width_mult=c["width_coefficient"],
            depth_mult=c["depth_coefficient"],
            width_divisor=c["depth_divisor"],
            stages=_stages(c),
            square_padding=tuple(c["depthwise_padding"]),
            squeeze_ratio=c["squeeze_expansion_ratio"],
            pool=_POOLS[c["pooling_type"]],
            drop_connect=c["drop_connect_rate"],
            act=act_from(c["hidden_act"]),
            eps=c["batch_norm_eps"],
            momentum=c["batch_norm_momentum"],
        ),
        text=bert.bert_fields(dict(config.get("text_config") or {})),
    )


def _vision_config(image: EfficientNet) -> dict[str, Any]:
    kernels, widths, strides, repeats, expand = (list(column) for column in zip(*image.stages, strict=True))
    return dict(
        model_type="align_vision_model",
        image_size=unsize(image.image_size),
        width_coefficient=image.width_mult,
        depth_coefficient=image.depth_mult,
        depth_divisor=image.width_divisor,
        kernel_sizes=kernels,
        in_channels=[STEM_WIDTH, *widths[:-1]],
        out_channels=widths,
        depthwise_padding=list(image.square_padding),
        strides=strides,
        num_block_repeats=repeats,
        expand_ratios=expand,
        squeeze_expansion_ratio=image.squeeze_ratio,
        hidden_act=act_to(image.act),
        # transformers uses it as the window of the last pooling, which is the whole map as long as it is larger.
        hidden_dim=int(1280 * image.width_mult),
        pooling_type=next(theirs for theirs, ours in _POOLS.items() if ours == image.pool),
        batch_norm_eps=image.eps,
        batch_norm_momentum=image.momentum,
        drop_connect_rate=image.drop_connect,
    )


def config(model: DualEncoder) -> dict[str, Any]:
    """AlignConfig of a model."""
    return dict(
        architectures=["AlignModel"],
        model_type="align",
        projection_dim=model.text_proj.features,
        temperature_init_value=1 / model.scale_init,
        text_config=dict(bert.bert_config(model.text_tower), model_type="align_text_model"),
        vision_config=_vision_config(model.image_tower),
    )


def _batch_norm(name: str, path: str) -> list[Rule]:
    return [
        *norm(name, path),
        rule(f"{name}.running_mean", f"batch_stats/{path}/mean"),
        rule(f"{name}.running_var", f"batch_stats/{path}/var"),
        # How many batches the statistics have seen: with a fixed momentum nothing depends on it.
        constant(f"{name}.num_batches_tracked", np.zeros((), np.int64)),
    ]


def _pointwise(name: str, path: str, bias: bool) -> list[Rule]:
    rules = [rule(f"{name}.weight", f"{path}/kernel", POINTWISE)]
    return [*rules, rule(f"{name}.bias", f"{path}/bias")] if bias else rules


def _block(name: str, path: str, expand: int) -> list[Rule]:
    expansion = [
        *_pointwise(f"{name}.expansion.expand_conv", f"{path}/expand", bias=False),
        *_batch_norm(f"{name}.expansion.expand_bn", f"{path}/norm_expand"),
    ]
    return [
        *(expansion if expand != 1 else []),
        rule(f"{name}.depthwise_conv.depthwise_conv.weight", f"{path}/depthwise/kernel", CONV),
        *_batch_norm(f"{name}.depthwise_conv.depthwise_norm", f"{path}/norm_depthwise"),
        *_pointwise(f"{name}.squeeze_excite.reduce", f"{path}/squeeze", bias=True),
        *_pointwise(f"{name}.squeeze_excite.expand", f"{path}/excite", bias=True),
        *_pointwise(f"{name}.projection.project_conv", f"{path}/project", bias=False),
        *_batch_norm(f"{name}.projection.project_bn", f"{path}/norm_project"),
    ]


def rules(model: DualEncoder) -> list[Rule]:
    """The tensor table of AlignModel; running statistics are state."""
    vision, image = "vision_model", "image_tower"
    return [
        rule("temperature", "temperature"),
        *linear("text_projection", "text_proj"),
        *nest(bert.rules(model.text_tower), "text_model.", "text_tower/"),
        rule(f"{vision}.embeddings.convolution.weight", f"{image}/stem/kernel", CONV),
        *_batch_norm(f"{vision}.embeddings.batchnorm", f"{image}/norm_stem"),
        *(
            r
            for index, spec in enumerate(model.image_tower.blocks)
            for r in _block(f"{vision}.encoder.blocks.{index}", f"{image}/block{index}", spec.expand)
        ),
    ]


TABLE = Table("align", fields, config, rules)
