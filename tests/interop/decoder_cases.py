"""Language models of transformers with random weights: the configurations that parity is held over."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.interop.hf_cases import Case, tower
from tests.interop.hf_runs import decoder_ours, decoder_reference
from tests.models_util import inputs
from tests.reference import transformers

Build = Callable[[Any], dict[str, np.ndarray]]


def padded(side: str) -> Build:
    """Texts of three lengths, padded on one side."""

    def build(model: Any) -> dict[str, np.ndarray]:
        given = inputs(model)
        mask = np.ones_like(given["tokens"])
        for row in range(len(mask)):
            mask[row, mask.shape[1] - 2 * row :] = 0
        return given | dict(mask=mask if side == "right" else mask[:, ::-1].copy())

    return build


def longer(model: Any) -> dict[str, np.ndarray]:
    """Texts longer than the model's own length."""
    return dict(tokens=np.random.default_rng(1).integers(0, model.vocab_size, (2, 2 * model.length)).astype(np.int32))


def case(kind: str, build: Build = inputs, **fields: Any) -> Case:
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "gemma": "Gemma", "gemma2": "Gemma2"}[kind]
    small: dict[str, Any] = dict(vocab_size=60, max_position_embeddings=12, num_key_value_heads=2, pad_token_id=0)
    if kind.startswith("gemma"):
        small |= dict(head_dim=8)
    config = getattr(transformers, f"{name}Config")(**tower(**small) | fields)
    # sdpa knows no soft caps: the definition is the eager one.
    config._attn_implementation = "eager"
    cls = getattr(transformers, f"{name}ForCausalLM")
    return Case(kind, cls, config, decoder_reference, decoder_ours, build)


def opt(build: Build = inputs, **fields: Any) -> Case:
    small: dict[str, Any] = dict(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4)
    small |= dict(vocab_size=60, max_position_embeddings=12)
    config = transformers.OPTConfig(**small | fields)
    return Case("opt", transformers.OPTForCausalLM, config, decoder_reference, decoder_ours, build)


def gpt2(build: Build = inputs, **fields: Any) -> Case:
    small: dict[str, Any] = dict(vocab_size=60, n_positions=12, n_embd=32, n_layer=2, n_head=4)
    small |= dict(bos_token_id=1, eos_token_id=2)
    config = transformers.GPT2Config(**small | fields)
    return Case("gpt2", transformers.GPT2LMHeadModel, config, decoder_reference, decoder_ours, build)


def scaled(rope_type: str, **fields: Any) -> dict[str, Any]:
    return dict(rope_parameters=dict(rope_type=rope_type, rope_theta=500.0, factor=4.0) | fields)


DECODERS: dict[str, Case] = {
    "llama": case("llama"),
    "llama, right padding, biases, tied": case(
        "llama", padded("right"), attention_bias=True, mlp_bias=True, tie_word_embeddings=True, num_hidden_layers=3
    ),
    "llama, left padding, wide heads": case("llama", padded("left"), head_dim=10, num_key_value_heads=4),
    "llama, linear positions": case("llama", **scaled("linear")),
    "llama, dynamic positions within the training length": case("llama", **scaled("dynamic")),
    "llama, dynamic positions beyond the training length": case("llama", longer, **scaled("dynamic")),
    "llama 3 positions": case(
        "llama",
        head_dim=16,
        **scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8),
    ),
    "llama, yarn": case("llama", head_dim=16, **scaled("yarn", original_max_position_embeddings=8)),
    "llama, yarn with its options": case(
        "llama",
        head_dim=16,
        **scaled(
            "yarn", original_max_position_embeddings=6, beta_fast=4.0, beta_slow=0.5, mscale=0.7, mscale_all_dim=0.4
        ),
    ),
    "mistral, window": case("mistral", sliding_window=4),
    "mistral, no window, left padding": case("mistral", padded("left"), sliding_window=None, hidden_act="gelu"),
    "qwen2": case("qwen2"),
    "qwen2, window in the last layers, tied": case(
        "qwen2",
        padded("right"),
        use_sliding_window=True,
        sliding_window=3,
        max_window_layers=1,
        num_hidden_layers=3,
        tie_word_embeddings=True,
    ),
    "gemma": case("gemma"),
    "gemma, one key head, untied": case(
        "gemma", padded("left"), num_key_value_heads=1, head_dim=6, tie_word_embeddings=False, attention_bias=True
    ),
    "gemma2": case("gemma2", sliding_window=3, num_hidden_layers=3),
    "gemma2, caps and scale": case(
        "gemma2",
        padded("left"),
        sliding_window=5,
        num_hidden_layers=4,
        query_pre_attn_scalar=5,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=2.0,
    ),
    "gemma2, no caps": case(
        "gemma2", sliding_window=4, attn_logit_softcapping=None, final_logit_softcapping=None, num_key_value_heads=4
    ),
    "opt": opt(),
    "opt, as 350m": opt(padded("right"), do_layer_norm_before=False, word_embed_proj_dim=20),
    "opt, no biases, no last norm, untied": opt(
        padded("left"),
        enable_bias=False,
        _remove_final_layer_norm=True,
        tie_word_embeddings=False,
        activation_function="gelu",
    ),
    "gpt2": gpt2(),
    "gpt2, odd sizes, padding": gpt2(
        padded("left"), n_embd=21, n_head=3, n_inner=31, n_layer=3, activation_function="relu"
    ),
    "gpt2, untied": gpt2(padded("right"), tie_word_embeddings=False, layer_norm_epsilon=1e-3),
}
