"""`transformers` directories of Llama's kin: Llama (with SmolLM and Vicuna), Mistral, Qwen2, Gemma and Gemma 2."""

from collections.abc import Mapping
from typing import Any

from jvlm.core.mapping import Rule, rule
from jvlm.interop.hf.blocks import act_from, act_to, language_head, linear
from jvlm.interop.hf.rope import rope_config, rope_fields
from jvlm.interop.table import Config, Table, require
from jvlm.models.decoder import Decoder

# What transformers assumes where a published config.json is silent.
_LLAMA: dict[str, Any] = dict(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=None,
    head_dim=None,
    hidden_act="silu",
    max_position_embeddings=2048,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention_bias=False,
    mlp_bias=False,
)
_MISTRAL: dict[str, Any] = _LLAMA | dict(
    intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=131_072, sliding_window=4096
)
_QWEN2: dict[str, Any] = _LLAMA | dict(
    vocab_size=151_936, intermediate_size=22016, num_key_value_heads=32, max_position_embeddings=32768,
    use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None,
)  # fmt: skip
_GEMMA: dict[str, Any] = _LLAMA | dict(
    vocab_size=256_000, hidden_size=3072, intermediate_size=24576, num_hidden_layers=28, num_attention_heads=16,
    num_key_value_heads=16, head_dim=256, max_position_embeddings=8192, tie_word_embeddings=True,
    hidden_act="gelu_pytorch_tanh",
)  # fmt: skip
_GEMMA2: dict[str, Any] = _GEMMA | dict(
    hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
    hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=256, sliding_window=4096, layer_types=None,
    final_logit_softcapping=30.0, attn_logit_softcapping=50.0,
)  # fmt: skip
_SLIDING, _FULL = "sliding_attention", "full_attention"


def _common(c: Mapping[str, Any], act: str) -> dict[str, Any]:
    require(c, "pretraining_tp", 1, None)
    require(c, "use_bidirectional_attention", None, False)
    return dict(
        vocab_size=c["vocab_size"],
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        num_kv_heads=c["num_key_value_heads"] or c["num_attention_heads"],
        head_dim=c["head_dim"] or c["hidden_size"] // c["num_attention_heads"],
        mlp_dim=c["intermediate_size"],
        length=c["max_position_embeddings"],
        act=act_from(act),
        eps=c["rms_norm_eps"],
        tied=c["tie_word_embeddings"],
        rope=rope_fields(c),
    )


def _biases(c: Mapping[str, Any]) -> dict[str, bool]:
    return dict(qkv_bias=c["attention_bias"], out_bias=c["attention_bias"], mlp_bias=c["mlp_bias"])


def llama_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from a LlamaConfig."""
    c = _LLAMA | dict(config)
    return _common(c, c["hidden_act"]) | _biases(c)


def mistral_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from a MistralConfig."""
    c = _MISTRAL | dict(config)
    require(c, "layer_types", None)
    return dict(_common(c, c["hidden_act"]), window=c["sliding_window"])


def qwen2_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from a Qwen2Config."""
    c = _QWEN2 | dict(config)
    local = None
    if c["use_sliding_window"] and c["sliding_window"]:
        depth, first = c["num_hidden_layers"], c["max_window_layers"]
        local = _local(c["layer_types"] or [_SLIDING if index >= first else _FULL for index in range(depth)])
    window = dict(window=c["sliding_window"], local=local) if local is not None else {}
    return dict(_common(c, c["hidden_act"]), qkv_bias=True, **window)


def _gemma_common(c: Mapping[str, Any], act: str) -> dict[str, Any]:
    # The first releases say gelu and were trained with the approximation by tanh.
    act = "gelu_pytorch_tanh" if act == "gelu" else act
    return _common(c, act) | _biases(c) | dict(norm_offset=1.0, scaled_embed=True)


def gemma_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from a GemmaConfig."""
    c = _GEMMA | dict(config)
    return _gemma_common(c, c["hidden_act"])


def gemma2_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from a Gemma2Config."""
    c = _GEMMA2 | dict(config)
    types = c["layer_types"] or [_FULL if index % 2 else _SLIDING for index in range(c["num_hidden_layers"])]
    return dict(
        _gemma_common(c, c["hidden_activation"]),
        place="both",
        window=c["sliding_window"],
        local=_local(types),
        query_scale=float(c["query_pre_attn_scalar"]),
        attn_softcap=c["attn_logit_softcapping"],
        logit_softcap=c["final_logit_softcapping"],
    )


def _local(types: Any) -> tuple[bool, ...]:
    for kind in types:
        require(dict(layer_types=kind), "layer_types", _SLIDING, _FULL)
    return tuple(kind == _SLIDING for kind in types)


def _config(model: Decoder, kind: str, name: str) -> dict[str, Any]:
    assert model.rope is not None
    return dict(
        architectures=[f"{name}ForCausalLM"],
        model_type=kind,
        vocab_size=model.vocab_size,
        hidden_size=model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.heads_width,
        intermediate_size=model.mlp_dim,
        max_position_embeddings=model.length,
        hidden_act=act_to(model.act),
        rms_norm_eps=model.eps,
        tie_word_embeddings=model.tied,
        rope_parameters=rope_config(model.rope),
    )


def _types(model: Decoder) -> list[str]:
    return [_SLIDING if local else _FULL for local in model.local or ()]


def llama_config(model: Decoder) -> dict[str, Any]:
    """LlamaConfig of a model."""
    return dict(_config(model, "llama", "Llama"), attention_bias=model.qkv_bias, mlp_bias=model.mlp_bias)


def mistral_config(model: Decoder) -> dict[str, Any]:
    """MistralConfig of a model."""
    return dict(_config(model, "mistral", "Mistral"), sliding_window=model.window)


def qwen2_config(model: Decoder) -> dict[str, Any]:
    """Qwen2Config of a model."""
    common = _config(model, "qwen2", "Qwen2")
    if model.local is None:
        return dict(common, use_sliding_window=False)
    return dict(common, use_sliding_window=True, sliding_window=model.window, layer_types=_types(model))


def gemma_config(model: Decoder) -> dict[str, Any]:
    """GemmaConfig of a model."""
    return dict(_config(model, "gemma", "Gemma"), attention_bias=model.qkv_bias)


def gemma2_config(model: Decoder) -> dict[str, Any]:
    """Gemma2Config of a model."""
    common = _config(model, "gemma2", "Gemma2")
    common["hidden_activation"] = common.pop("hidden_act")
    scale = model.query_scale or model.heads_width
    return dict(
        common,
        attention_bias=model.qkv_bias,
        query_pre_attn_scalar=int(scale) if scale == int(scale) else scale,
        sliding_window=model.window,
        layer_types=_types(model),
        attn_logit_softcapping=model.attn_softcap,
        final_logit_softcapping=model.logit_softcap,
    )


def rules(model: Decoder) -> list[Rule]:
    """The tensor table of all of them."""
    layer, ours = "model.layers.{}", "blocks/layers"
    norms = dict(norm_attn="input_layernorm", norm_mlp="post_attention_layernorm")
    if model.place == "both":
        norms = dict(
            norm_attn="input_layernorm",
            norm_attn_out="post_attention_layernorm",
            norm_mlp="pre_feedforward_layernorm",
            norm_mlp_out="post_feedforward_layernorm",
        )
    qkv = dict(query="q_proj", key="k_proj", value="v_proj")
    return [
        rule("model.embed_tokens.weight", "token_embed/embedding"),
        *(rule(f"{layer}.{theirs}.weight", f"{ours}/{name}/scale") for name, theirs in norms.items()),
        *(
            r
            for name, theirs in qkv.items()
            for r in linear(f"{layer}.self_attn.{theirs}", f"{ours}/attn/{name}", bias=model.qkv_bias)
        ),
        *linear(f"{layer}.self_attn.o_proj", f"{ours}/attn/out", bias=model.out_bias),
        *(
            r
            for name in ("gate", "up", "down")
            for r in linear(f"{layer}.mlp.{name}_proj", f"{ours}/mlp/{name}", bias=model.mlp_bias)
        ),
        rule("model.norm.weight", "last_norm/scale"),
        *language_head(model.tied),
    ]


_IGNORE = ("*rotary_emb.inv_freq",)

TABLES: dict[str, Table] = {
    "llama": Table("decoder", llama_fields, llama_config, rules, ignore=_IGNORE),
    "mistral": Table("decoder", mistral_fields, mistral_config, rules, ignore=_IGNORE),
    "qwen2": Table("decoder", qwen2_fields, qwen2_config, rules, ignore=_IGNORE),
    "gemma": Table("decoder", gemma_fields, gemma_config, rules, ignore=_IGNORE),
    "gemma2": Table("decoder", gemma2_fields, gemma2_config, rules, ignore=_IGNORE),
}
