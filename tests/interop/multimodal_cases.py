"""Multimodal models of transformers with random weights: the configurations that parity is held over."""

from typing import Any

import numpy as np

from tests.interop.hf_cases import Case, tower
from tests.interop.hf_runs import decoder_ours
from tests.interop.multimodal_runs import multimodal_reference
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
    return getattr(transformers, f"{name}Config")(**tower(**small) | fields)


def llava(text: Any, vision: dict[str, Any] | None = None, build: Any = multimodal_inputs, **fields: Any) -> Case:
    vision = dict(num_hidden_layers=3, image_size=16, patch_size=8) | (vision or {})
    kind = fields.pop("kind", transformers.CLIPVisionConfig)
    config = transformers.LlavaConfig(
        vision_config=kind(**tower(**vision)), text_config=text, **dict(image_token_index=59) | fields
    )
    config._attn_implementation = "eager"
    cls = transformers.LlavaForConditionalGeneration
    return Case("llava", cls, config, multimodal_reference, decoder_ours, build)


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
}
