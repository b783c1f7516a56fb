"""Published sizes of decoder-only language models."""

from typing import Any


def _llama(width: int, depth: int, num_heads: int, mlp_dim: int, **fields: Any) -> dict[str, Any]:
    shared: dict[str, Any] = dict(vocab_size=32000, length=4096, eps=1e-5, tied=False, rope={})
    return shared | dict(width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim) | fields


_LLAMA3: dict[str, Any] = dict(vocab_size=128256, length=8192, num_kv_heads=8, rope=dict(theta=500_000.0))
_SMOLLM2: dict[str, Any] = dict(vocab_size=49152, length=8192, tied=True, rope=dict(theta=100_000.0))
_QWEN2: dict[str, Any] = dict(qkv_bias=True, eps=1e-6, length=32768, rope=dict(theta=1_000_000.0))


def _gemma(width: int, depth: int, num_heads: int, kv_heads: int, mlp_dim: int, **fields: Any) -> dict[str, Any]:
    shared: dict[str, Any] = dict(
        vocab_size=256_000, length=8192, head_dim=256, eps=1e-6, norm_offset=1.0, act="gelu_tanh", scaled_embed=True,
        rope={}, num_kv_heads=kv_heads,
    )  # fmt: skip
    return shared | dict(width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim) | fields


def _gemma2(depth: int, **fields: Any) -> dict[str, Any]:
    """Every other layer sees a window, the first one included (arXiv:2408.00118, section 2)."""
    local = tuple(index % 2 == 0 for index in range(depth))
    return dict(place="both", window=4096, local=local, attn_softcap=50.0, logit_softcap=30.0, **fields)


def _layer_norms(width: int, depth: int, num_heads: int, **fields: Any) -> dict[str, Any]:
    """Learned positions, layer norms, biases everywhere, and a plain MLP of four times the width."""
    shared: dict[str, Any] = dict(
        norm="layer", eps=1e-5, gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, rope=None
    )
    return shared | dict(width=width, depth=depth, num_heads=num_heads, mlp_dim=4 * width) | fields


def _opt(width: int, depth: int, num_heads: int, **fields: Any) -> dict[str, Any]:
    shared: dict[str, Any] = dict(vocab_size=50272, length=2048, act="relu", position_offset=2)
    return _layer_norms(width, depth, num_heads, **shared | fields)


def _gpt2(width: int, depth: int, num_heads: int) -> dict[str, Any]:
    return _layer_norms(width, depth, num_heads, vocab_size=50257, length=1024, act="gelu_tanh")


VARIANTS: dict[str, dict[str, Any]] = {
    # Llama 2, arXiv:2307.09288; Llama 3, arXiv:2407.21783; Vicuna-1.5 has Llama 2's shape
    "llama-2-7b": _llama(4096, 32, 32, 11008),
    "llama-2-13b": _llama(5120, 40, 40, 13824),
    "llama-2-70b": _llama(8192, 80, 64, 28672, num_kv_heads=8),
    "llama-3-8b": _llama(4096, 32, 32, 14336, **_LLAMA3),
    # arXiv:2310.06825
    "mistral-7b": _llama(4096, 32, 32, 14336, num_kv_heads=8, window=4096, length=32768),
    # SmolLM2, arXiv:2502.02737
    "smollm2-135m": _llama(576, 30, 9, 1536, num_kv_heads=3, **_SMOLLM2),
    "smollm2-360m": _llama(960, 32, 15, 2560, num_kv_heads=5, **_SMOLLM2),
    "smollm2-1.7b": _llama(2048, 24, 32, 8192, **_SMOLLM2 | dict(rope=dict(theta=130_000.0))),
    # arXiv:2407.10671, table 1
    "qwen2-0.5b": _llama(896, 24, 14, 4864, num_kv_heads=2, vocab_size=151936, **_QWEN2 | dict(tied=True)),
    "qwen2-1.5b": _llama(1536, 28, 12, 8960, num_kv_heads=2, vocab_size=151936, **_QWEN2 | dict(tied=True)),
    "qwen2-7b": _llama(3584, 28, 28, 18944, num_kv_heads=4, vocab_size=152064, **_QWEN2),
    # arXiv:2403.08295, table 1; arXiv:2408.00118, table 1
    "gemma-2b": _gemma(2048, 18, 8, 1, 16384),
    "gemma-7b": _gemma(3072, 28, 16, 16, 24576),
    "gemma-2-2b": _gemma(2304, 26, 8, 4, 9216, **_gemma2(26)),
    "gemma-2-9b": _gemma(3584, 42, 16, 8, 14336, **_gemma2(42)),
    "gemma-2-27b": _gemma(4608, 46, 32, 16, 36864, **_gemma2(46, head_dim=128, query_scale=144.0)),
    # arXiv:2205.01068, table 1
    "opt-125m": _opt(768, 12, 12),
    "opt-350m": _opt(1024, 24, 16, embed_width=512, place="post", final_norm=False),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    # GPT-2, Radford et al. 2019, table 2; the counts are those of the released models
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
}

TINY: dict[str, Any] = dict(
    vocab_size=64, length=12, width=32, depth=2, num_heads=4, num_kv_heads=2, mlp_dim=48, rope=dict(theta=100.0)
)
