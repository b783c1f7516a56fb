"""Multimodal models of transformers with random weights: the configurations that parity is held over."""

from typing import Any

import numpy as np

from jvlm.data.any_resolution import AnyResolution
from jvlm.data.image_spec import ImageSpec
from tests.interop.hf_cases import Case, tower
from tests.interop.hf_runs import decoder_ours
from tests.interop.multimodal_runs import (
    SIZES,
    instruct_reference,
    interleaved_reference,
    matcher_ours,
    matcher_reference,
    multimodal_reference,
    prefix_reference,
    tiles_reference,
)
from tests.models_util import multimodal_inputs
from tests.reference import transformers

WORDS = dict(vocab_size=60, max_position_embeddings=24)


def padded(model: Any) -> dict[str, np.ndarray]:
    """Rows padded on the left by different amounts, the pictures behind the padding."""
    given = multimodal_inputs(model, pictures=1)
    mask = np.ones((3, given["tokens"].shape[1] + 4), np.int32)
    tokens = np.zeros_like(mask)
    for row in range(3):
        tokens[row, 2 * row : 2 * row + given["tokens"].shape[1]] = given["tokens"][row]
        mask[row, : 2 * row] = 0
    return given | dict(tokens=tokens, mask=mask)


def language(kind: str, **fields: Any) -> Any:
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "gemma": "Gemma", "gemma2": "Gemma2"}[kind]
    small: dict[str, Any] = dict(WORDS, num_key_value_heads=2, pad_token_id=0)
    return getattr(transformers, f"{name}Config")(**tower(**small | fields))


def llava(text: Any, vision: dict[str, Any] | None = None, build: Any = multimodal_inputs, **given: Any) -> Case:
    fields: dict[str, Any] = dict(image_token_index=59) | given
    vision = dict(num_hidden_layers=3, image_size=16, patch_size=8) | (vision or {})
    kind = fields.pop("kind", transformers.CLIPVisionConfig)
    config = transformers.LlavaConfig(vision_config=kind(**tower(**vision)), text_config=text, **fields)
    config._attn_implementation = "eager"
    cls = transformers.LlavaForConditionalGeneration
    return Case("llava", cls, config, multimodal_reference, decoder_ours, build)


def asked(model: Any) -> dict[str, np.ndarray]:
    """One picture a row, and an instruction of its own length for each."""
    given = multimodal_inputs(model, pictures=1)
    question = np.random.default_rng(1).integers(1, 50, (3, 5)).astype(np.int32)
    mask = np.arange(5)[None] < np.array([[5], [3], [1]])
    return given | dict(question=question, question_mask=mask)


def sentences(model: Any) -> dict[str, np.ndarray]:
    """Pictures, and texts that end in padding of several lengths."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, (3, 7)).astype(np.int32)
    for row in range(3):
        tokens[row, 7 - 2 * row :] = 0
    return dict(image=rng.normal(size=(3, 16, 16, 3)).astype(np.float32), tokens=tokens)


def blip2(kind: str, text: Any, build: Any, vision: dict[str, Any], queries: dict[str, Any], **fields: Any) -> Case:
    name = {"blip-2": "Blip2", "blip-2-retrieval": "Blip2", "instructblip": "InstructBlip"}[kind]
    parts = dict(
        vision_config=tower(image_size=16, patch_size=8) | vision,
        qformer_config=tower(vocab_size=61, max_position_embeddings=9) | queries,
        text_config=text,
    )
    config = getattr(transformers, f"{name}Config")(**parts, num_query_tokens=3, **fields)
    end = "ForImageTextRetrieval" if kind == "blip-2-retrieval" else "ForConditionalGeneration"
    retrieval = kind == "blip-2-retrieval"
    reference = {"instructblip": instruct_reference}.get(kind, multimodal_reference)
    cls = getattr(transformers, name + end)
    if retrieval:
        return Case(kind, cls, config, matcher_reference, matcher_ours, build)
    return Case(kind, cls, config, reference, decoder_ours, build)


def tiled(model: Any) -> dict[str, np.ndarray]:
    """A picture of its own size in each row, cut to tiles; rows padded on the left."""
    rng = np.random.default_rng(0)
    cut = AnyResolution(ImageSpec.clip(16), side=2, grids=model.tiles)
    places = [np.asarray([-2, *cut.places(*size), -2, -2]) for size in SIZES]
    counts, length = [cut.tiles(*size) for size in SIZES], max(map(len, places))
    where = np.stack([np.pad(row, (length - len(row), 0), constant_values=-2) for row in places])
    mask = np.arange(length)[None] >= length - np.array([[len(row)] for row in places])
    words = rng.integers(1, 50, where.shape)
    return dict(
        image=rng.normal(size=(3, max(counts), 16, 16, 3)).astype(np.float32),
        image_mask=np.arange(max(counts))[None] < np.array(counts)[:, None],
        tokens=np.where(where == -2, words, model.image_token).astype(np.int32),
        places=where.astype(np.int32),
        mask=mask.astype(np.int32),
    )


def llava_next(text: Any, **given: Any) -> Case:
    sizes = [[16, 32], [32, 16], [32, 32], [48, 16]]
    fields: dict[str, Any] = dict(image_token_index=59, image_grid_pinpoints=sizes) | given
    vision = transformers.CLIPVisionConfig(**tower(num_hidden_layers=3, image_size=16, patch_size=8))
    config = transformers.LlavaNextConfig(vision_config=vision, text_config=text, **fields)
    config._attn_implementation = "eager"
    return Case(
        "llava_next", transformers.LlavaNextForConditionalGeneration, config, tiles_reference, decoder_ours, tiled
    )


def prefixed(model: Any) -> dict[str, np.ndarray]:
    """A picture and some words that see each other, then an answer."""
    given = multimodal_inputs(model, pictures=1)
    length = given["tokens"].shape[1]
    words = np.random.default_rng(2).integers(0, 50, (3, 4)).astype(np.int32)
    tokens = np.concatenate([given["tokens"], words], axis=1)
    return given | dict(tokens=tokens, prefix=np.arange(tokens.shape[1])[None] < length + np.array([[0], [1], [3]]))


def paligemma(text: Any, **given: Any) -> Case:
    vision = transformers.SiglipVisionConfig(**tower(image_size=16, patch_size=8), vision_use_head=False)
    fields: dict[str, Any] = dict(image_token_index=59, projection_dim=32) | given
    config = transformers.PaliGemmaConfig(vision_config=vision, text_config=text, **fields)
    config._attn_implementation = "eager"
    cls = transformers.PaliGemmaForConditionalGeneration
    return Case("paligemma", cls, config, prefix_reference, decoder_ours, prefixed)


def interleaved(model: Any) -> dict[str, np.ndarray]:
    """Words, two pictures among them, the second extra token too; padded on the left by different amounts."""
    given = multimodal_inputs(model)
    words = np.random.default_rng(3).integers(1, 50, (3, 3)).astype(np.int32)
    tokens = np.concatenate([words, given["tokens"], words], axis=1)
    tokens[:, -2] = model.text_tower.vocab_size
    mask = np.arange(tokens.shape[1])[None] >= np.array([[0], [1], [2]])
    return given | dict(tokens=tokens, mask=mask.astype(np.int32))


def idefics(vision: dict[str, Any], perceiver: dict[str, Any] | None = None, **given: Any) -> Case:
    small = dict(num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, image_size=16, patch_size=8)
    readers = dict(resampler_n_latents=3, resampler_depth=2, resampler_n_heads=2, resampler_head_dim=12)
    fields: dict[str, Any] = tower(num_hidden_layers=4, vocab_size=60, max_position_embeddings=24, pad_token_id=0)
    fields |= dict(additional_vocab_size=2) | given
    config = transformers.IdeficsConfig(
        vision_config=dict(embed_dim=24) | small | vision, perceiver_config=readers | (perceiver or {}), **fields
    )
    config._attn_implementation = "eager"
    cls = transformers.IdeficsForVisionText2Text
    return Case("idefics", cls, config, interleaved_reference, decoder_ours, interleaved)


OPT = transformers.OPTConfig(
    hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=60, max_position_embeddings=24
)

MULTIMODAL: dict[str, Case] = {
    "llava": llava(language("llama")),
    "llava, left padding, last layer with the class token, no bias": llava(
        language("llama", tie_word_embeddings=True),
        dict(hidden_act="gelu"),
        padded,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=False,
    ),
    "llava, several layers, qwen2": llava(
        language("qwen2"), vision_feature_layer=[1, -1, 0], projector_hidden_act="gelu_pytorch_tanh"
    ),
    "llava, mistral, window": llava(language("mistral", sliding_window=4), image_token_index=7),
    "llava, siglip": llava(
        language("llama"),
        dict(vision_use_head=False),
        kind=transformers.SiglipVisionConfig,
        vision_feature_select_strategy="full",
    ),
    "llava_next": llava_next(language("llama", max_position_embeddings=64)),
    "llava_next, mistral, last layer": llava_next(
        language("mistral", max_position_embeddings=64, sliding_window=6), vision_feature_layer=-1
    ),
    "blip-2": blip2("blip-2", OPT, multimodal_inputs, {}, {}, image_token_index=59),
    "blip-2, other widths, llama, left padding": blip2(
        "blip-2",
        language("llama"),
        padded,
        dict(hidden_size=24, num_hidden_layers=3, qkv_bias=False, hidden_act="relu"),
        dict(num_hidden_layers=6, cross_attention_frequency=3, hidden_act="relu"),
        image_token_index=59,
    ),
    "instructblip": blip2(
        "instructblip", language("llama"), asked, {}, dict(num_hidden_layers=4), image_token_index=59
    ),
    "instructblip, cross-attention everywhere": blip2(
        "instructblip", OPT, asked, dict(hidden_size=24), dict(cross_attention_frequency=1), image_token_index=58
    ),
    "blip-2-retrieval": blip2(
        "blip-2-retrieval", OPT, sentences, {}, dict(use_qformer_text_input=True), image_text_hidden_size=24
    ),
    "blip-2-retrieval, other widths": blip2(
        "blip-2-retrieval",
        OPT,
        sentences,
        dict(hidden_size=24),
        dict(use_qformer_text_input=True, num_hidden_layers=4, hidden_act="relu", layer_norm_eps=1e-5),
        image_text_hidden_size=16,
    ),
    "paligemma": paligemma(language("gemma", head_dim=8)),
    "paligemma, token beyond the vocabulary": paligemma(
        language("gemma", head_dim=6, num_key_value_heads=1), image_token_index=60
    ),
    "paligemma 2": paligemma(language("gemma2", head_dim=8, sliding_window=64)),
    "idefics": idefics({}, cross_layer_interval=2, use_resampler=True),
    "idefics, as 9b": idefics(
        dict(hidden_act="relu"),
        dict(qk_layer_norms_perceiver=True),
        cross_layer_interval=2,
        use_resampler=True,
        qk_layer_norms=True,
        alpha_type="vector",
    ),
    "idefics, every picture's features": idefics(dict(embed_dim=32), cross_layer_interval=1, num_hidden_layers=2),
}
