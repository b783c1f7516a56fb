"""Reference models of the published decoders' sizes, written out again so that a slip in ours shows."""

from typing import Any

from tests.reference import torch, transformers

# width, depth, heads, key heads, hidden units, vocabulary
LLAMA: dict[str, tuple[int, ...]] = {
    "llama-2-7b": (4096, 32, 32, 32, 11008, 32000),
    "llama-2-13b": (5120, 40, 40, 40, 13824, 32000),
    "llama-2-70b": (8192, 80, 64, 8, 28672, 32000),
    "llama-3-8b": (4096, 32, 32, 8, 14336, 128256),
    "mistral-7b": (4096, 32, 32, 8, 14336, 32000),
    "smollm2-135m": (576, 30, 9, 3, 1536, 49152),
    "smollm2-360m": (960, 32, 15, 5, 2560, 49152),
    "smollm2-1.7b": (2048, 24, 32, 32, 8192, 49152),
    "qwen2-0.5b": (896, 24, 14, 2, 4864, 151936),
    "qwen2-1.5b": (1536, 28, 12, 2, 8960, 151936),
    "qwen2-7b": (3584, 28, 28, 4, 18944, 152064),
    "gemma-2b": (2048, 18, 8, 1, 16384, 256000),
    "gemma-7b": (3072, 28, 16, 16, 24576, 256000),
    "gemma-2-2b": (2304, 26, 8, 4, 9216, 256000),
    "gemma-2-9b": (3584, 42, 16, 8, 14336, 256000),
    "gemma-2-27b": (4608, 46, 32, 16, 36864, 256000),
}
OPT = {
    "opt-125m": (768, 12, 12),
    "opt-350m": (1024, 24, 16),
    "opt-1.3b": (2048, 24, 32),
    "opt-2.7b": (2560, 32, 32),
    "opt-6.7b": (4096, 32, 32),
}
GPT2 = {"gpt2": (768, 12, 12), "gpt2-medium": (1024, 24, 16), "gpt2-large": (1280, 36, 20), "gpt2-xl": (1600, 48, 25)}

# width, depth, heads, hidden units
T5 = {
    "small": (512, 6, 8, 2048),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "flan-base": (768, 12, 12, 2048),
    "flan-large": (1024, 24, 16, 2816),
    "flan-xl": (2048, 24, 32, 5120),
    "flan-xxl": (4096, 24, 64, 10240),
    "flan-xxl-encoder": (4096, 24, 64, 10240),
}
T5_COUNTS = {
    "small": 60_506_624,
    "base": 222_903_552,
    "large": 737_668_096,
    "flan-base": 247_577_856,
    "flan-large": 783_150_080,
    "flan-xl": 2_849_757_184,
    "flan-xxl": 11_135_332_352,
    "flan-xxl-encoder": 4_762_310_656,
}

# As the releases count them: the sum over the published safetensors files.
COUNTS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


def decoder(variant: str) -> Any:
    """The transformers model of a published size; build it on torch's meta device."""
    if variant in OPT:
        return _opt(variant)
    if variant in GPT2:
        width, depth, heads = GPT2[variant]
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=width, n_layer=depth, n_head=heads))
    width, depth, heads, key_heads, hidden, vocab = LLAMA[variant]
    shape: dict[str, Any] = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads)
    shape |= dict(num_key_value_heads=key_heads, intermediate_size=hidden, vocab_size=vocab)
    name = variant.split("-")[0]
    if name == "gemma":
        cls, config = ("Gemma2", transformers.Gemma2Config) if "-2-" in variant else ("Gemma", transformers.GemmaConfig)
        shape |= dict(head_dim=128 if "27b" in variant else 256)
        return getattr(transformers, f"{cls}ForCausalLM")(config(**shape, tie_word_embeddings=True))
    tied = name == "smollm2" or variant in ("qwen2-0.5b", "qwen2-1.5b")
    cls = {"mistral": "Mistral", "qwen2": "Qwen2"}.get(name, "Llama")
    config = getattr(transformers, f"{cls}Config")(**shape, tie_word_embeddings=tied)
    return getattr(transformers, f"{cls}ForCausalLM")(config)


def _opt(variant: str) -> Any:
    width, depth, heads = OPT[variant]
    small = variant == "opt-350m"
    config = transformers.OPTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        ffn_dim=4 * width,
        do_layer_norm_before=not small,
        word_embed_proj_dim=512 if small else width,
    )
    return transformers.OPTForCausalLM(config)


def t5(variant: str) -> Any:
    """The transformers model of a published T5; version 1.1 has a head of its own, which transformers ties at first."""
    width, depth, heads, hidden = T5[variant]
    flan = variant.startswith("flan")
    shape: dict[str, Any] = dict(d_model=width, num_layers=depth, num_heads=heads, d_ff=hidden)
    config = transformers.T5Config(**shape, feed_forward_proj="gated-gelu" if flan else "relu")
    if variant.endswith("encoder"):
        return transformers.T5EncoderModel(config)
    model = transformers.T5ForConditionalGeneration(config)
    if flan:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


def bert_decoder(variant: str) -> Any:
    """BertLMHeadModel with cross-attention."""
    large = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    shape: dict[str, Any] = large if variant == "large" else {}
    return transformers.BertLMHeadModel(transformers.BertConfig(**shape, is_decoder=True, add_cross_attention=True))
