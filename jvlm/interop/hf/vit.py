"""`transformers.ViTModel` and `ViTForImageClassification` directories."""

from typing import Any

from jvlm.core.bijections import patch
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.hf.blocks import act_from, act_to, linear, norm
from jvlm.interop.table import Config, Table, require, single, size, unsize
from jvlm.models.vit import ViT

_DEFAULTS: dict[str, Any] = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    image_size=224,
    patch_size=16,
    qkv_bias=True,
)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.vit` from a ViTConfig; the architecture tells whether there is a head or a pooler."""
    c = _DEFAULTS | dict(config)
    require(c, "num_channels", 3)
    require(c, "pooler_act", "tanh")
    require(c, "pooler_output_size", None, c["hidden_size"])
    head = "ViTForImageClassification" in (config.get("architectures") or [])
    classes = len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
    return dict(
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        mlp_dim=c["intermediate_size"],
        act=act_from(c["hidden_act"]),
        eps=c["layer_norm_eps"],
        patch_size=single(c["patch_size"], "patch_size"),
        image_size=size(c["image_size"]),
        qkv_bias=c["qkv_bias"],
        num_classes=classes if head else None,
        pooler=not head,
    )


def config(model: ViT) -> dict[str, Any]:
    """ViTConfig of a model."""
    head = model.num_classes is not None
    out: dict[str, Any] = dict(
        architectures=["ViTForImageClassification" if head else "ViTModel"],
        model_type="vit",
        hidden_size=model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.num_heads,
        intermediate_size=model.mlp_dim,
        hidden_act=act_to(model.act),
        layer_norm_eps=model.eps,
        patch_size=model.patch_size,
        image_size=unsize(model.image_size),
        qkv_bias=model.qkv_bias,
    )
    if model.num_classes is not None:
        out["id2label"] = {str(k): f"LABEL_{k}" for k in range(model.num_classes)}
        out["label2id"] = {f"LABEL_{k}": k for k in range(model.num_classes)}
    return out


def rules(model: ViT) -> list[Rule]:
    """The tensor table: the encoder, and a classifier or a pooler."""
    layer, ours = "encoder.layer.{}", "blocks/layers"
    body = [
        rule("embeddings.cls_token", "class_token"),
        rule("embeddings.position_embeddings", "pos_embed"),
        rule("embeddings.patch_embeddings.projection.weight", "patches/proj/kernel", patch(model.patch_size)),
        rule("embeddings.patch_embeddings.projection.bias", "patches/proj/bias"),
        *norm(f"{layer}.layernorm_before", f"{ours}/norm_attn"),
        *norm(f"{layer}.layernorm_after", f"{ours}/norm_mlp"),
        *linear(f"{layer}.attention.attention.query", f"{ours}/attn/query", bias=model.qkv_bias),
        *linear(f"{layer}.attention.attention.key", f"{ours}/attn/key", bias=model.qkv_bias),
        *linear(f"{layer}.attention.attention.value", f"{ours}/attn/value", bias=model.qkv_bias),
        *linear(f"{layer}.attention.output.dense", f"{ours}/attn/out"),
        *linear(f"{layer}.intermediate.dense", f"{ours}/mlp/up"),
        *linear(f"{layer}.output.dense", f"{ours}/mlp/down"),
        *norm("layernorm", "norm"),
    ]
    if model.num_classes is not None:
        return [*nest(body, "vit.", ""), *linear("classifier", "head")]
    return [*body, *linear("pooler.dense", "pooler")]


TABLE = Table("vit", fields, config, rules)
