"""Reference models of the transformers formats with random weights, and what is compared of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from tests.interop.directories import perturbed
from tests.models_util import inputs
from tests.reference import torch, transformers

Outputs = dict[str, np.ndarray]


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


def pixels(image: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] to torch's [B, C, H, W]."""
    return torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


def arrays(**outputs: torch.Tensor | None) -> Outputs:
    return {name: x.detach().numpy() for name, x in outputs.items() if x is not None}


def dual_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> Outputs:
    def run(variables: Any, image: jax.Array, tokens: jax.Array) -> dict[str, Any]:
        def tower(name: str, x: jax.Array) -> jax.Array:
            part = {collection: tree[name] for collection, tree in variables.items() if name in tree}
            return getattr(model, name).apply(part, x).tokens

        out = model.apply(variables, image, tokens)
        return dict(
            zimg=out.zimg,
            ztxt=out.ztxt,
            logits=out.scale * out.zimg @ out.ztxt.T + (0.0 if out.bias is None else out.bias),
            image_tokens=tower("image_tower", image),
            text_tokens=tower("text_tower", tokens),
        )

    return jax.jit(run)(variables, **given)


def dual_reference(model: Any, given: dict[str, np.ndarray], **picture: Any) -> Outputs:
    picture = picture or dict(pixel_values=pixels(given["image"]))
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(given["tokens"]).long(), **picture)
    return arrays(
        zimg=out.image_embeds,
        ztxt=out.text_embeds,
        logits=out.logits_per_image,
        image_tokens=out.vision_model_output.last_hidden_state,
        text_tokens=out.text_model_output.last_hidden_state,
    )


def siglip2_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    image, p = given["image"], model.config.vision_config.patch_size
    batch, height, width, channels = image.shape
    rows, cols = height // p, width // p
    patches = image.reshape(batch, rows, p, cols, p, channels).transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, p * p * 3)
    return dual_reference(
        model,
        given,
        pixel_values=torch.from_numpy(patches.copy()),
        pixel_attention_mask=torch.ones(batch, rows * cols, dtype=torch.int32),
        spatial_shapes=torch.tensor([[rows, cols]] * batch),
    )


def vit_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> Outputs:
    out = jax.jit(model.apply)(variables, **given)
    return dict(logits=out.logits) if model.num_classes else dict(tokens=out.tokens, pooled=out.pooled)


def vit_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    with torch.no_grad():
        out = model(pixel_values=pixels(given["image"]))
    if hasattr(out, "logits"):
        return arrays(logits=out.logits)
    return arrays(tokens=out.last_hidden_state, pooled=out.pooler_output)


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


def bert_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> Outputs:
    out = jax.jit(model.apply)(variables, **given)
    return dict(tokens=out.tokens, pooled=out.pooled) if model.pooler else dict(tokens=out.tokens)


def bert_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    tokens = torch.from_numpy(given["tokens"]).long()
    mask = torch.from_numpy(given["mask"]) if "mask" in given else tokens != 0
    types = torch.from_numpy(given["types"]) if "types" in given else None
    with torch.no_grad():
        out = model(tokens, attention_mask=mask.long(), token_type_ids=types)
    return arrays(tokens=out.last_hidden_state, pooled=out.pooler_output)


def bert_case(build: Callable[[Any], dict[str, np.ndarray]], pooler: bool = True, **fields: Any) -> Case:
    fields = tower(vocab_size=60, max_position_embeddings=9) | fields
    if not pooler:
        fields["add_pooling_layer"] = False  # what tells us; transformers takes the argument
    cls = transformers.BertModel if pooler else BertWithoutPooler
    return Case("bert", cls, transformers.BertConfig(**fields), bert_reference, bert_ours, build)


class BertWithoutPooler(transformers.BertModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config, add_pooling_layer=False)


def align_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    mask = torch.from_numpy(given["tokens"] != 0).long()
    out = dual_reference(model, given, pixel_values=pixels(given["image"]), attention_mask=mask)
    maps = out["image_tokens"]  # [B, D, H, W]
    return out | dict(image_tokens=maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1))


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
