"""Contrastive pretraining of a dual encoder, with exact gradient-cached accumulation."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.leaves import keyed
from jvlm.core.sharding import active_mesh, constrain
from jvlm.core.types import Batch, Grads, Loss, Params, Predict, Variables
from jvlm.losses.contrastive import clipped_scale
from jvlm.losses.ring import contrastive_loss
from jvlm.models.dual_encoder import DualEncoder, DualOutput
from jvlm.tasks.base import accumulate
from jvlm.transforms.freeze import combine


@dataclass(frozen=True)
class Contrastive:
    """CLIP's and SigLIP's objective over the whole batch, every device's negatives included.

    `kind` and `options` (form, neighbourhood, dot_dtype, block, bidirectional) go to
    `losses.ring.contrastive_loss`. Batches hold `image` [B, H, W, 3], `tokens` [B, T], and may hold `weight` [B] and
    integer `label` [B], used when `use_labels`.
    """

    model: DualEncoder
    kind: str = "softmax"
    use_labels: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        variables = dict(self.model.init(rng, batch["image"], batch["tokens"]))
        return Variables(variables.pop("params"), variables)

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        out, state = self._encode(params, state, batch, rng)
        total, weight, metrics = self._pair_loss(out, params, batch)
        return Loss(total, weight, state, metrics)

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        """Exact gradient of the loss over all K micro-batches as one batch (GradCache, arXiv:2101.06983).

        Embeds every micro-batch without keeping activations, differentiates the loss with respect to all embeddings,
        then embeds each again and pulls its part of that gradient back. The second pass reuses the first's keys, so
        dropout is the same in both.
        """
        count = batches["image"].shape[0]
        if count == 1:
            return accumulate(self.loss, params, frozen, state, batches, rng)
        whole = combine(params, frozen)

        def embed(state: Params, item: tuple[Batch, jax.Array]) -> tuple[Params, DualOutput]:
            batch, index = item
            key = jax.random.fold_in(rng, index)
            out, new = self._encode(keyed(whole, key), state, batch, key)
            return new, out

        indices = jnp.arange(count)
        after, outs = jax.lax.scan(embed, state, (dict(batches), indices))
        merged = {key: _merge(value) for key, value in batches.items() if key in ("weight", "label")}

        def pair_loss(embeddings: tuple[jax.Array, jax.Array], trained: Params) -> tuple[jax.Array, Any]:
            zimg, ztxt = (_merge(z) for z in embeddings)
            out = DualOutput(zimg=zimg, ztxt=ztxt, scale=outs.scale[0], bias=None)
            total, weight, metrics = self._pair_loss(out, combine(trained, frozen), merged)
            weight = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
            return total / weight, metrics

        (loss, metrics), (cotangents, grads) = jax.value_and_grad(pair_loss, argnums=(0, 1), has_aux=True)(
            (outs.zimg, outs.ztxt), params
        )

        def pull_back(carry: tuple[Params, Params], item: Any) -> tuple[tuple[Params, Params], None]:
            grads, state = carry
            batch, index, (dimg, dtxt) = item

            def embeddings(trained: Params) -> tuple[Any, Any, Params]:
                key = jax.random.fold_in(rng, index)
                out, new = self._encode(keyed(combine(trained, frozen), key), state, batch, key)
                return out.zimg, out.ztxt, new

            _, pull, new_state = _vjp_with_state(embeddings, params)
            return (jax.tree.map(jnp.add, grads, pull((dimg, dtxt))), new_state), None

        (grads, _), _ = jax.lax.scan(pull_back, (grads, state), (dict(batches), indices, cotangents))
        return Grads(grads, loss, after, metrics)

    def predict_fns(self) -> dict[str, Predict]:
        def image(variables: Params, image: jax.Array) -> jax.Array:
            out: Any = self.model.apply(variables, image=image)
            return out.zimg

        def text(variables: Params, tokens: jax.Array) -> jax.Array:
            out: Any = self.model.apply(variables, tokens=tokens)
            return out.ztxt

        return {"image": image, "text": text}

    def _encode(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> tuple[DualOutput, Params]:
        out, updates = self.model.apply(
            {"params": params, **state},
            batch["image"],
            batch["tokens"],
            train=True,
            rngs={"dropout": rng},
            mutable=list(state),
        )
        out = out.replace(zimg=constrain(out.zimg, ("batch", None)), ztxt=constrain(out.ztxt, ("batch", None)))
        return out, dict(updates)

    def _pair_loss(self, out: DualOutput, params: Params, batch: Batch) -> tuple[Any, Any, dict[str, Any]]:
        if out.zimg is None or out.ztxt is None:
            raise ValueError("a contrastive loss needs both towers' embeddings")
        divides = "temperature" in params  # ALIGN's way to say the same
        scale = clipped_scale(-jnp.log(params["temperature"]) if divides else params["logit_scale"])
        total, weight = contrastive_loss(
            self.kind,
            out.zimg,
            out.ztxt,
            scale,
            params.get("logit_bias"),
            batch.get("label") if self.use_labels else None,
            batch.get("weight"),
            mesh=active_mesh(),
            **self.options,
        )
        return total, weight, {"scale": scale}


def _merge(x: jax.Array) -> jax.Array:
    """[K, B, ...] to [B * K, ...], the inverse of `split_batch`: samples stay on their devices."""
    x = jnp.swapaxes(x, 0, 1)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _vjp_with_state(fn: Any, params: Params) -> tuple[Any, Any, Any]:
    def primal(params: Params) -> tuple[Any, Any]:
        zimg, ztxt, state = fn(params)
        return (zimg, ztxt), state

    out, pull, state = jax.vjp(primal, params, has_aux=True)
    return out, lambda cotangents: pull(cotangents)[0], state
