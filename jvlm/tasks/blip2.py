"""BLIP-2's first stage: contrast, matching and captioning of the same pairs by one Q-Former."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.sharding import active_mesh, constrain
from jvlm.core.types import Batch, Grads, Loss, Params, Predict, Variables
from jvlm.losses.hard_negatives import fetch, hard_negatives
from jvlm.losses.language import language_loss, next_token
from jvlm.losses.matching import matching_loss
from jvlm.losses.ring import contrastive_loss
from jvlm.losses.similarity import max_over_queries
from jvlm.models.blip2_pretrain import Blip2Pretrain
from jvlm.tasks.base import accumulate


@dataclass(frozen=True)
class Blip2Stage1:
    """ITC + ITM + ITG (Li et al., arXiv:2301.12597, section 3.2), each a mean, added.

    Batches hold `image` [B, H, W, 3], `tokens` [B, T] that begin with BERT's class token, and may hold `weight` [B].
    Every device's samples are candidates, of the loss and of the hard negatives; with micro-batches, those of the
    same one. `start_id` takes the class token's place in front of a caption that is to be written. `parts` weighs the
    three. `options` go to `losses.ring.contrastive_loss`.
    """

    model: Blip2Pretrain
    start_id: int = 30522
    chunk: int = 64
    smoothing: float = 0.1
    parts: dict[str, float] = field(default_factory=lambda: dict(contrast=1.0, match=1.0, caption=1.0))
    options: dict[str, Any] = field(default_factory=dict)

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        variables = dict(self.model.init(rng, batch["image"], batch["tokens"]))
        return Variables(variables.pop("params"), variables)

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        keys = jax.random.split(rng, 6)

        def run(method: str, key: jax.Array, *args: Any, **options: Any) -> Any:
            rngs = {"dropout": key}
            variables = {"params": params, **state}
            return self.model.apply(variables, *args, **options, train=True, method=method, rngs=rngs)

        tokens = batch["tokens"]
        weight = batch["weight"] if "weight" in batch else jnp.ones(tokens.shape[0], jnp.float32)
        features = constrain(run("features", keys[0], batch["image"]), ("batch", None, None))
        zimg = constrain(run("image_queries", keys[1], features), ("batch", None, None))
        ztxt = constrain(run("text", keys[2], tokens), ("batch", None))
        scale = 1.0 / jnp.clip(params["temperature"], 1e-3, 0.5)
        mesh = active_mesh()
        contrast = contrastive_loss(
            "softmax", zimg, ztxt, scale, weights=weight, mesh=mesh, similarity=max_over_queries, **self.options
        )
        match = self._match(run, keys[3:5], features, tokens, zimg, ztxt, scale, weight)
        caption = self._caption(run, keys[5], params, state, features, tokens, weight)
        means = {
            name: part[0] / jnp.maximum(part[1], 1e-9)
            for name, part in dict(contrast=contrast, match=match, caption=caption).items()
        }
        total: Any = sum(self.parts[name] * mean for name, mean in means.items())
        count = weight.sum()
        metrics = {f"loss_{name}": mean for name, mean in means.items()}
        metrics |= dict(scale=scale, match_accuracy=match[2] / jnp.maximum(match[1], 1e-9))
        return Loss(total * count, count, state, metrics)

    def _match(self, run: Any, keys: Any, features: Any, tokens: Any, zimg: Any, ztxt: Any, scale: Any, weight: Any):
        """Each pair, each picture with a text that is not its own, and each text with such a picture."""
        mesh = active_mesh()
        texts, images = hard_negatives(
            keys[0], zimg, ztxt, scale, weights=weight, mesh=mesh, similarity=max_over_queries
        )
        wrong_tokens = fetch(tokens, texts, mesh=mesh)
        wrong_features = fetch(features, images, mesh=mesh)
        total = [jnp.zeros(())] * 3
        pairs = (
            (features, tokens, 1.0, weight),
            (wrong_features, tokens, 0.0, weight * (images >= 0)),
            (features, wrong_tokens, 0.0, weight * (texts >= 0)),
        )
        for index, (seen, words, matches, counted) in enumerate(pairs):
            logits = run("matched", jax.random.fold_in(keys[1], index), seen, words)
            part = matching_loss(logits, jnp.full(counted.shape, matches), counted)
            total = [a + b for a, b in zip(total, part, strict=True)]
        return total

    def _caption(self, run: Any, key: Any, params: Any, state: Any, features: Any, tokens: Any, weight: Any) -> Any:
        first = jnp.full((tokens.shape[0], 1), self.start_id, tokens.dtype)
        written = jnp.concatenate([first, tokens[:, 1:]], axis=1)
        x = run("read", key, features, written)
        targets, weights = next_token(written, written != self.model.qformer.pad_id, weight=weight)

        def logits_of(x: jax.Array) -> Any:
            return self.model.apply({"params": params, **state}, x, method="words")

        return language_loss(logits_of, x, targets, weights, self.chunk, self.smoothing)

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        return accumulate(self.loss, params, frozen, state, batches, rng)

    def predict_fns(self) -> dict[str, Predict]:
        """`image` embeddings are those of the queries, [B, Q, E]; `matched` scores pairs."""

        def image(variables: Params, image: jax.Array) -> Any:
            features = self.model.apply(variables, image, method="features")
            return self.model.apply(variables, features, method="image_queries")

        def text(variables: Params, tokens: jax.Array) -> Any:
            return self.model.apply(variables, tokens, method="text")

        def matched(variables: Params, image: jax.Array, tokens: jax.Array) -> Any:
            features = self.model.apply(variables, image, method="features")
            return self.model.apply(variables, features, tokens, method="matched")

        return {"image": image, "text": text, "matched": matched}
