"""Language models of transformers with random weights: the configurations that parity is held over."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.interop.hf_cases import Case, tower
from tests.interop.hf_runs import bert_decoder_reference, decoder_ours, decoder_reference, t5_ours, t5_reference
from tests.models_util import inputs
from tests.reference import torch, transformers

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


def translated(decoder: bool = True) -> Build:
    """Sources of three lengths, and targets of another length than theirs."""

    def build(model: Any) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, model.vocab_size, (3, 11)).astype(np.int32)
        mask = (np.arange(11) < np.asarray([[11], [8], [4]])).astype(np.int32)
        targets = dict(targets=rng.integers(0, model.vocab_size, (3, 6)).astype(np.int32)) if decoder else {}
        return dict(tokens=tokens, mask=mask, **targets)

    return build


class UntiedT5(transformers.T5ForConditionalGeneration):
    """With a head of its own, as the released models of version 1.1; transformers ties it until weights differ."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.lm_head.weight = torch.nn.Parameter(torch.randn_like(self.shared.weight))


def t5(decoder: bool = True, untied: bool = False, **fields: Any) -> Case:
    small: dict[str, Any] = dict(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    small |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=9, decoder_start_token_id=0)
    config = transformers.T5Config(**small | fields)
    cls = (UntiedT5 if untied else transformers.T5ForConditionalGeneration) if decoder else transformers.T5EncoderModel
    return Case("t5" if decoder else "t5-encoder", cls, config, t5_reference, t5_ours, translated(decoder))


def captioned(memory: bool) -> Build:
    """Padded texts, and features of pictures of two sizes."""

    def build(model: Any) -> dict[str, np.ndarray]:
        given = padded("right")(model)
        if not memory:
            return given
        features = np.random.default_rng(2).normal(size=(3, 5, model.width)).astype(np.float32)
        return given | dict(memory=features, memory_mask=np.arange(5) < np.asarray([[5], [3], [5]]))

    return build


def bert_decoder(cross: bool, **fields: Any) -> Case:
    fields = tower(vocab_size=60, max_position_embeddings=9, is_decoder=True, add_cross_attention=cross) | fields
    config = transformers.BertConfig(**fields)
    cls = transformers.BertLMHeadModel
    return Case("bert-decoder", cls, config, bert_decoder_reference, decoder_ours, captioned(cross))


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
    "t5": t5(),
    "t5, gates, own depth of the decoder, not scaled": t5(
        feed_forward_proj="gated-gelu", num_decoder_layers=3, tie_word_embeddings=False, layer_norm_epsilon=1e-3
    ),
    "t5, gates of silu, wide heads, few buckets": t5(
        feed_forward_proj="gated-silu", d_kv=10, relative_attention_num_buckets=4, relative_attention_max_distance=5
    ),
    "t5, a head of its own": t5(untied=True, tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    "t5 encoder": t5(decoder=False, feed_forward_proj="gated-gelu", num_layers=3),
    "t5 encoder, first version": t5(decoder=False),
    "bert decoder": bert_decoder(False),
    "bert decoder, cross-attention": bert_decoder(True, num_hidden_layers=3, hidden_act="relu"),
}
