"""How a reference and ours are run on the same inputs, to outputs of the same names."""

from typing import Any

import jax
import numpy as np

from tests.reference import torch

Outputs = dict[str, np.ndarray]


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


def clip_text_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> Outputs:
    out = jax.jit(lambda variables, tokens: model.apply(variables, tokens, layer=-1))(variables, given["tokens"])
    plain = jax.jit(model.apply)(variables, given["tokens"])
    return dict(tokens=plain.tokens, pooled=plain.pooled, hidden=out.hidden, again=out.tokens)


def clip_text_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    with torch.no_grad():
        out = model(torch.from_numpy(given["tokens"]).long(), output_hidden_states=True)
    pooled = out.text_embeds if "text_embeds" in out else out.pooler_output
    last = out.last_hidden_state
    return arrays(tokens=last, pooled=pooled, hidden=out.hidden_states[-2], again=last)


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


def align_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    mask = torch.from_numpy(given["tokens"] != 0).long()
    out = dual_reference(model, given, pixel_values=pixels(given["image"]), attention_mask=mask)
    maps = out["image_tokens"]  # [B, D, H, W]
    return out | dict(image_tokens=maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1))


def decoder_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> Outputs:
    out = jax.jit(model.apply)(variables, **given)
    return dict(logits=seen(out.logits, given))


def decoder_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    mask = given.get("mask", np.ones_like(given["tokens"]))
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        out = model(
            torch.from_numpy(given["tokens"]).long(),
            attention_mask=torch.from_numpy(mask).long(),
            position_ids=torch.from_numpy(positions).long(),
        )
    return dict(logits=seen(out.logits.numpy(), given))


def seen(logits: Any, given: dict[str, np.ndarray]) -> np.ndarray:
    """Logits of what is not padding; the others mean nothing."""
    return np.asarray(logits) * given["mask"][..., None] if "mask" in given else np.asarray(logits)


def t5_ours(model: Any, variables: dict[str, Any], given: dict[str, np.ndarray]) -> Outputs:
    out = jax.jit(model.apply)(variables, **given)
    return dict(tokens=seen(out.tokens, given)) if out.logits is None else dict(logits=out.logits)


def t5_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    tokens, mask = (torch.from_numpy(given[name]).long() for name in ("tokens", "mask"))
    with torch.no_grad():
        if "targets" not in given:
            return dict(tokens=seen(model(tokens, attention_mask=mask).last_hidden_state.numpy(), given))
        targets = torch.from_numpy(given["targets"]).long()
        return arrays(logits=model(tokens, attention_mask=mask, decoder_input_ids=targets).logits)


def bert_decoder_reference(model: Any, given: dict[str, np.ndarray]) -> Outputs:
    memory = {}
    if "memory" in given:
        memory = dict(
            encoder_hidden_states=torch.from_numpy(given["memory"]),
            encoder_attention_mask=torch.from_numpy(given["memory_mask"]).long(),
        )
    mask = torch.from_numpy(given["mask"]).long()
    with torch.no_grad():
        out = model(torch.from_numpy(given["tokens"]).long(), attention_mask=mask, **memory)
    return dict(logits=seen(out.logits.numpy(), given))
