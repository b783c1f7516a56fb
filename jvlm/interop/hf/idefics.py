"""`transformers.IdeficsForVisionText2Text` directories."""

from typing import Any

from jvlm.core.bijections import drop_lead
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.hf import clip, decoders
from jvlm.interop.hf.blocks import act_from, act_to, linear, norm
from jvlm.interop.table import Config, Table, require, single, size, unsize
from jvlm.models.flamingo import Flamingo

# What transformers assumes where a published config.json is silent.
_DEFAULTS: dict[str, Any] = dict(
    vocab_size=32000,
    additional_vocab_size=0,
    alpha_type="float",
    cross_layer_interval=1,
    qk_layer_norms=False,
    use_resampler=False,
)
_VISION: dict[str, Any] = dict(
    embed_dim=768,
    image_size=224,
    intermediate_size=5120,
    patch_size=14,
    num_hidden_layers=32,
    num_attention_heads=16,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
)
_PERCEIVER: dict[str, Any] = dict(
    resampler_n_latents=64,
    resampler_depth=6,
    resampler_n_heads=16,
    resampler_head_dim=96,
    qk_layer_norms_perceiver=False,
)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.flamingo` from an IdeficsConfig; its first extra token but one stands for a picture."""
    c = _DEFAULTS | dict(config)
    vision = _VISION | dict(c.get("vision_config") or {})
    perceiver = _PERCEIVER | dict(c.get("perceiver_config") or {})
    require(c, "alpha_type", "float", "vector")
    require(vision, "num_channels", 3)
    width = vision["embed_dim"]
    resampler = dict(
        num_queries=perceiver["resampler_n_latents"],
        depth=perceiver["resampler_depth"],
        num_heads=perceiver["resampler_n_heads"],
        head_dim=perceiver["resampler_head_dim"],
        mlp_dim=4 * width,
        qk_norm=perceiver["qk_layer_norms_perceiver"],
    )
    return dict(
        image=dict(
            width=width,
            depth=vision["num_hidden_layers"],
            num_heads=vision["num_attention_heads"],
            mlp_dim=vision["intermediate_size"],
            act=act_from(vision["hidden_act"]),
            eps=vision["layer_norm_eps"],
            patch_size=single(vision["patch_size"], "patch_size"),
            image_size=size(vision["image_size"]),
        ),
        text=decoders.llama_fields(c),
        resampler=resampler if c["use_resampler"] else None,
        gate=dict(qk_norm=c["qk_layer_norms"], vector=c["alpha_type"] == "vector"),
        every=c["cross_layer_interval"],
        # <fake_token_around_image> comes first, then <image>.
        image_token=c["vocab_size"] + max(c["additional_vocab_size"] - 1, 0),
        extra_vocab=c["additional_vocab_size"],
    )


def config(model: Flamingo) -> dict[str, Any]:
    """IdeficsConfig of a model."""
    tower, text, bridge = model.image_tower, model.text_tower, model.bridge
    perceiver = {}
    if bridge is not None and bridge.width not in (None, tower.width):
        raise UserError(f"Idefics resamples at its tower's width {tower.width}, this model at {bridge.width}")
    if bridge is not None:
        perceiver = dict(
            resampler_n_latents=bridge.num_queries,
            resampler_depth=bridge.depth,
            resampler_n_heads=bridge.num_heads,
            resampler_head_dim=bridge.head_dim,
            qk_layer_norms_perceiver=bridge.qk_norm,
        )
    language = decoders.llama_config(text)
    return dict(
        {name: value for name, value in language.items() if name not in ("attention_bias", "mlp_bias", "head_dim")},
        architectures=["IdeficsForVisionText2Text"],
        model_type="idefics",
        additional_vocab_size=model.extra_vocab,
        alpha_type="vector" if model.gate.vector else "float",
        cross_layer_interval=model.every,
        qk_layer_norms=model.gate.qk_norm,
        use_resampler=bridge is not None,
        perceiver_config=dict(perceiver, model_type="idefics_perciever"),
        vision_config=dict(
            model_type="idefics_vision",
            embed_dim=tower.width,
            num_hidden_layers=tower.depth,
            num_attention_heads=tower.num_heads,
            intermediate_size=tower.mlp_dim,
            hidden_act=act_to(tower.act),
            layer_norm_eps=tower.eps,
            image_size=unsize(tower.image_size),
            patch_size=tower.patch_size,
        ),
    )


def rules(model: Flamingo) -> list[Rule]:
    """The tensor table."""
    extra = [
        rule("model.embed_tokens.additional_embedding.weight", "extra_embed/embedding"),
        *linear("lm_head.additional_fc", "extra_head", bias=False),
    ]
    return [
        *nest(clip.vision_rules(model.image_tower), "model.vision_model.", "image_tower/"),
        *nest(decoders.rules(model.text_tower), "", "text_tower/"),
        *_gates(model),
        *(_resampler(model.bridge.qk_norm) if model.bridge is not None else []),
        *(extra if model.extra_vocab else []),
    ]


def _gates(model: Flamingo) -> list[Rule]:
    theirs, ours = "model.gated_cross_attn_layers.{}", "gates/layers"
    shape = [drop_lead(2)] if model.gate.vector else []
    norms = dict(norm_cross="input_layernorm", norm_mlp="post_attention_layernorm")
    if model.gate.qk_norm:
        norms |= dict(norm_query="cross_attn.q_layer_norm", norm_key="cross_attn.k_layer_norm")
    products = {name: f"cross_attn.{name[0]}_proj" for name in ("query", "key", "value", "out")}
    products |= {f"mlp/{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    return [
        rule(f"{theirs}.alpha_cross_attn", f"{ours}/gate_cross", *shape),
        rule(f"{theirs}.alpha_dense", f"{ours}/gate_mlp", *shape),
        *(rule(f"{theirs}.{name}.weight", f"{ours}/{path}/scale") for path, name in norms.items()),
        *(r for path, name in products.items() for r in linear(f"{theirs}.{name}", f"{ours}/{path}", bias=False)),
    ]


def _resampler(qk_norm: bool) -> list[Rule]:
    block, ours = "model.perceiver_resampler.blocks.{}", "bridge/layers"
    attn = dict(query="q_proj", key="k_proj", value="v_proj", out="output_proj")
    heads = dict(norm_query="q_layer_norm", norm_key="k_layer_norm") if qk_norm else {}
    return [
        rule("model.perceiver_resampler.latents", "bridge/latents"),
        *norm(f"{block}.0.context_layer_norm", f"{ours}/norm_memory"),
        *norm(f"{block}.0.latents_layer_norm", f"{ours}/norm_latents"),
        *(r for path, name in attn.items() for r in linear(f"{block}.0.{name}", f"{ours}/{path}", bias=False)),
        *(r for path, name in heads.items() for r in norm(f"{block}.0.{name}", f"{ours}/{path}")),
        *norm(f"{block}.1.ln", f"{ours}/norm_mlp"),
        *linear(f"{block}.1.fc", f"{ours}/mlp/up", bias=False),
        *linear(f"{block}.1.c_proj", f"{ours}/mlp/down", bias=False),
        *norm("model.perceiver_resampler.layer_norm", "bridge/norm"),
    ]


TABLE = Table("flamingo", fields, config, rules, ignore=("*position_ids", "*rotary_emb.inv_freq"))
