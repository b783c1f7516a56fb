"""Reference models of the transformers formats with random weights: the configurations that parity is held over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.interop.directories import perturbed
from tests.interop.hf_runs import (
    Outputs,
    align_reference,
    bert_ours,
    bert_reference,
    clip_text_ours,
    clip_text_reference,
    dual_ours,
    dual_reference,
    siglip2_reference,
    vit_ours,
    vit_reference,
)
from tests.models_util import inputs
from tests.reference import torch, transformers


@dataclass(frozen=True)
class Case:
    """A reference class with a configuration, and how to run it and ours on our inputs to outputs of the same names."""

    table: str
    cls: Any
    config: Any
    reference: Callable[[Any, dict[str, np.ndarray]], Outputs]
    ours: Callable[[Any, dict[str, Any], dict[str, np.ndarray]], Outputs]
    inputs: Callable[[Any], dict[str, np.ndarray]] = inputs

    def build(self, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return perturbed(self.cls(self.config), seed)


def tower(**fields: Any) -> dict[str, Any]:
    """A tiny transformer in transformers' names."""
    small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    return small | fields


def text_inputs(at: int, token: int) -> Callable[[Any], dict[str, np.ndarray]]:
    """Inputs with the end token at `at` or later, and noise after it as padding may be."""

    def build(model: Any) -> dict[str, np.ndarray]:
        given = inputs(model)
        tokens = given["tokens"] % token  # nothing above the end token, nothing equal to it
        for row in range(len(tokens)):
            tokens[row, at + row] = token
        return given | dict(tokens=tokens)

    return build


def clip_case(text: dict[str, Any], vision: dict[str, Any], eos: int, end: int, **fields: Any) -> Case:
    text = tower(vocab_size=60, max_position_embeddings=9, eos_token_id=eos) | text
    vision = tower(image_size=16, patch_size=8) | vision
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, **fields)
    return Case("clip", transformers.CLIPModel, config, dual_reference, dual_ours, text_inputs(4, end))


def clip_text_case(table: str, cls: Any, **fields: Any) -> Case:
    config = transformers.CLIPTextConfig(**tower(vocab_size=60, max_position_embeddings=9, **fields))
    return Case(table, cls, config, clip_text_reference, clip_text_ours, text_inputs(4, 59))


def siglip_case(text: dict[str, Any], vision: dict[str, Any]) -> Case:
    config = transformers.SiglipConfig(
        text_config=tower(vocab_size=60, max_position_embeddings=7) | text,
        vision_config=tower(image_size=16, patch_size=8) | vision,
    )
    return Case("siglip", transformers.SiglipModel, config, dual_reference, dual_ours)


def siglip2_case(text: dict[str, Any], vision: dict[str, Any]) -> Case:
    config = transformers.Siglip2Config(
        text_config=tower(vocab_size=60, max_position_embeddings=7) | text,
        vision_config=tower(num_patches=4, patch_size=8) | vision,
    )
    return Case("siglip2", transformers.Siglip2Model, config, siglip2_reference, dual_ours)


def vit_case(head: bool, **fields: Any) -> Case:
    config = transformers.ViTConfig(**(tower(image_size=16, patch_size=8) | fields))
    cls = transformers.ViTForImageClassification if head else transformers.ViTModel
    return Case("vit", cls, config, vit_reference, vit_ours)


def padded(model: Any) -> dict[str, np.ndarray]:
    """Inputs whose texts end in padding of several lengths, token 0."""
    given = inputs(model)
    tokens = np.maximum(given["tokens"], 1)
    for row in range(len(tokens)):
        tokens[row, tokens.shape[1] - row :] = 0
    return given | dict(tokens=tokens)


def masked(model: Any) -> dict[str, np.ndarray]:
    """Inputs with an explicit mask that is not where the padding is, and two segments."""
    given = padded(model)
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 2, given["tokens"].shape)
    mask[:, 0] = 1
    return given | dict(mask=mask, types=np.cumsum(mask, axis=1) // 4)


def bert_case(build: Callable[[Any], dict[str, np.ndarray]], pooler: bool = True, **fields: Any) -> Case:
    fields = tower(vocab_size=60, max_position_embeddings=9) | fields
    if not pooler:
        fields["add_pooling_layer"] = False  # what tells us; transformers takes the argument
    cls = transformers.BertModel if pooler else BertWithoutPooler
    return Case("bert", cls, transformers.BertConfig(**fields), bert_reference, bert_ours, build)


class BertWithoutPooler(transformers.BertModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config, add_pooling_layer=False)


def align_case(text: dict[str, Any], vision: dict[str, Any], **fields: Any) -> Case:
    small = dict(image_size=16, width_coefficient=0.5, depth_coefficient=1.0, hidden_dim=64)
    stages = dict(
        kernel_sizes=[3, 5, 3],
        in_channels=[32, 16, 24],
        out_channels=[16, 24, 48],
        strides=[1, 2, 2],
        num_block_repeats=[1, 2, 1],
        expand_ratios=[1, 6, 4],
    )
    config = transformers.AlignConfig(
        text_config=tower(vocab_size=60, max_position_embeddings=9) | text,
        vision_config=small | stages | vision,
        **fields,
    )
    return Case("align", transformers.AlignModel, config, align_reference, dual_ours, padded)


CASES: dict[str, Case] = {
    "clip legacy eos, highest id": clip_case({}, {}, eos=2, end=59, projection_dim=24),
    "clip eos id, gelu": clip_case(
        dict(hidden_act="gelu", num_hidden_layers=3), dict(hidden_act="gelu", hidden_size=36), eos=41, end=41
    ),
    "clip odd sizes": clip_case(
        dict(hidden_size=21, num_attention_heads=3, intermediate_size=31, layer_norm_eps=1e-3),
        dict(
            hidden_size=15, num_attention_heads=5, intermediate_size=7, patch_size=5, image_size=22, hidden_act="relu"
        ),
        eos=57,
        end=57,
        projection_dim=13,
        logit_scale_init_value=1.25,
    ),
    "clip text": clip_text_case("clip_text_model", transformers.CLIPTextModel, eos_token_id=2, hidden_act="gelu"),
    "clip text, projected": clip_text_case(
        "clip_text_model-projected", transformers.CLIPTextModelWithProjection, eos_token_id=59, projection_dim=24
    ),
    "siglip": siglip_case({}, {}),
    "siglip odd sizes": siglip_case(
        dict(hidden_size=21, num_attention_heads=3, intermediate_size=10, projection_size=15, hidden_act="gelu"),
        dict(hidden_size=15, num_attention_heads=3, intermediate_size=17, patch_size=4, hidden_act="quick_gelu"),
    ),
    "siglip picture no multiple of the patch": siglip_case(
        dict(num_hidden_layers=1, layer_norm_eps=1e-4), dict(image_size=23, patch_size=6, num_hidden_layers=3)
    ),
    "siglip2": siglip2_case({}, {}),
    "siglip2 odd sizes": siglip2_case(
        dict(hidden_size=21, num_attention_heads=3, projection_size=35, hidden_act="silu"),
        dict(hidden_size=35, num_attention_heads=7, patch_size=5, num_patches=9, intermediate_size=11),
    ),
    "vit backbone": vit_case(False),
    "vit classifier": vit_case(True, num_labels=7, layer_norm_eps=1e-6),
    "vit without query bias, not square": vit_case(
        False, qkv_bias=False, image_size=(16, 24), hidden_act="relu", hidden_size=20, num_attention_heads=5
    ),
    "vit classifier, odd sizes": vit_case(
        True,
        num_labels=3,
        hidden_size=21,
        num_attention_heads=7,
        intermediate_size=5,
        patch_size=7,
        image_size=(21, 15),
    ),
    "bert, padding": bert_case(padded),
    "bert, mask and segments": bert_case(masked, hidden_act="relu", num_hidden_layers=3, type_vocab_size=5),
    "bert odd sizes": bert_case(
        padded, hidden_size=21, num_attention_heads=3, intermediate_size=10, hidden_act="gelu_new", layer_norm_eps=1e-5
    ),
    "bert without pooler": bert_case(masked, pooler=False),
    "align": align_case({}, {}, projection_dim=24, temperature_init_value=0.5),
    "align, odd picture, square padding, largest of the map": align_case(
        dict(hidden_size=21, num_attention_heads=3, hidden_act="relu"),
        dict(image_size=23, depthwise_padding=[1, 3], pooling_type="max", hidden_act="relu", depth_coefficient=1.2),
        projection_dim=24,
    ),
    "align, other widths": align_case(
        {},
        dict(
            width_coefficient=0.37,
            depth_divisor=4,
            image_size=[20, 13],
            squeeze_expansion_ratio=0.4,
            batch_norm_eps=0.02,
            kernel_sizes=[5, 3, 5],
            strides=[2, 1, 2],
        ),
        projection_dim=16,
    ),
}
