"""Learning to answer: the next token of a language model, with or without pictures."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jvlm.core.errors import ConfigError
from jvlm.core.types import Batch, Grads, Loss, Params, Predict, Variables
from jvlm.losses.language import language_loss, next_token
from jvlm.tasks.base import accumulate
from jvlm.transforms.context import NO_TOKEN, prompted

INPUTS = (
    "tokens", "image", "image_mask", "places", "positions", "segments", "mask", "prefix", "question", "question_mask"
)  # fmt: skip
"""What of a batch a model is given, where it is there."""


@dataclass(frozen=True)
class Language:
    """Next-token loss on the tokens that `answer` [B, T] marks, over packed rows.

    Batches hold `tokens` [B, T], and may hold `answer`, `segments`, `positions` and `places` [B, T], `image`
    [B, M, H, W, 3] with `image_mask` [B, M], and `weight` [B]; without `answer` every word is learnt. Rows are
    `length` tokens (None: what the model can take) with `pictures` tiles. `chunk` positions of a row meet the head at a
    time, and of all only the first `answers` that are learnt (None: all positions), which the data must not exceed. A
    bridge that reads the instruction (InstructBLIP) is given `question` tokens of it.
    """

    model: Any
    length: int | None = None
    pictures: int = 1
    chunk: int = 256
    smoothing: float = 0.0
    answers: int | None = None
    question: int = 32

    def shapes(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a packed batch, from what the model takes. ConfigError for a `question` beyond it."""
        rows, length = batch["tokens"].shape
        shape = (rows, self.length or length)
        out = {key: jax.ShapeDtypeStruct(shape, np.int32) for key in ("tokens", "positions", "segments")}
        out["answer"] = jax.ShapeDtypeStruct(shape, np.bool_)
        if "image" in batch:
            if getattr(self.model, "reads_question", False):
                if self.question > (most := self.model.bridge.qformer.length):
                    raise ConfigError(f"task.question is {self.question}, but the Q-Former has {most} positions")
                out["question"] = jax.ShapeDtypeStruct((rows, self.pictures, self.question), np.int32)
                out["question_mask"] = jax.ShapeDtypeStruct((rows, self.pictures, self.question), np.bool_)
            out["places"] = out["tokens"]
            out["image"] = jax.ShapeDtypeStruct((rows, self.pictures, *batch["image"].shape[2:]), np.float32)
            out["image_mask"] = jax.ShapeDtypeStruct((rows, self.pictures), np.bool_)
        return {**batch, **out}

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        variables = dict(self.model.init(rng, **inputs(batch)))
        return Variables(variables.pop("params"), variables)

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        variables = {"params": params, **state}
        if batch.get("answer") is None:
            batch = {**batch, "answer": batch["tokens"] != getattr(self.model, "image_token", NO_TOKEN)}
        length = batch["tokens"].shape[1]
        batch = prompted(params, batch)
        if batch["tokens"].shape[1] > length and attention(self.model) == "splash":
            raise ConfigError("attention 'splash' does not take a learned prompt; set attention = 'einsum'")
        out, new = self.model.apply(
            variables, **inputs(batch), at=0, train=True, rngs={"dropout": rng}, mutable=list(state)
        )
        targets, weights = next_token(batch["tokens"], batch["answer"], batch.get("segments"), batch.get("weight"))

        def logits_of(x: jax.Array) -> Any:
            return self.model.apply(variables, x, method="logits")

        x = out.tokens
        if self.answers is not None and self.answers < x.shape[1]:
            at = jnp.argsort(weights <= 0, axis=1, stable=True)[:, : self.answers]
            x, targets, weights = (
                jnp.take_along_axis(x, at[..., None], 1),
                *(jnp.take_along_axis(y, at, 1) for y in (targets, weights)),
            )
        total, weight, hits = language_loss(logits_of, x, targets, weights, self.chunk, self.smoothing)
        accuracy = hits / jnp.maximum(weight, 1e-9)
        return Loss(total, weight, dict(new), {"answer_tokens": weight, "answer_accuracy": accuracy})

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        return accumulate(self.loss, params, frozen, state, batches, rng)

    def predict_fns(self) -> dict[str, Predict]:
        def logits(variables: Params, **given: jax.Array) -> Any:
            return self.model.apply(variables, **given).logits

        return {"logits": logits}


def attention(model: Any) -> str | None:
    """How the language model of `model` attends, where there is a choice."""
    return getattr(getattr(model, "text_tower", model), "attention", None)


def inputs(batch: Batch) -> dict[str, Any]:
    """What of `batch` a model is called with."""
    return {key: batch[key] for key in INPUTS if key in batch}
