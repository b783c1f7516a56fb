"""A model that writes as an `Answerer`: prompts with pictures to batches, and batches to texts and likelihoods."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from jvlm.core.errors import UserError
from jvlm.data.chat import assistant_message, user_message
from jvlm.data.conversations import Conversation
from jvlm.data.image_ops import BadPicture
from jvlm.data.multimodal import TEXT, Encoded, MultimodalProcessor, text_only
from jvlm.data.pictures import Pictures
from jvlm.data.processor import Processor
from jvlm.data.tokenizer_json import JsonTokenizer
from jvlm.data.tokenizers import Tokenizer
from jvlm.evals.answerer import Prompt
from jvlm.generate import prompts as language
from jvlm.generate.conversing import conversing
from jvlm.generate.generator import Generator, bucket
from jvlm.transforms.context import prompted

PICTURES = 64
"""How many tiles a prompt may have."""
QUESTION = 32
"""Tokens that an instruction is padded to for a bridge that reads it, so that few programs are compiled."""


class ModelAnswerer:
    """Answers prompts with `model` and the preprocessing of its directory, at most `batch_size` at once.

    `ends` are the tokens that end an answer. Batches are padded on the left to the longest prompt of all, so that a
    suite compiles few programs; `unrolled` as `Generator` takes it, False where answers are short and compilation is
    what takes time.
    """

    def __init__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        processor: Processor,
        ends: Sequence[int],
        batch_size: int = 16,
        where: str = "the model",
        raw: bool = False,
        unrolled: bool | None = None,
    ) -> None:
        if not hasattr(model, "prefill"):
            raise UserError(f"{where}: the model writes no text, so it cannot answer; give one with a language model")
        if processor.tokenizer is None:
            raise UserError(f"{where}: the directory has no tokenizer; copy it there from the model's source")
        self.tokenizer: Tokenizer = processor.tokenizer
        self.sees, self.where, self.raw = hasattr(model, "image_token"), where, raw
        self.processor: MultimodalProcessor | None = None
        if self.sees or isinstance(self.tokenizer, JsonTokenizer):
            self.processor = conversing(model, processor, max_tiles=PICTURES, where=where, raw=raw)
        self.generator = Generator(model, variables, ends=ends, pad=self.tokenizer.pad_id, unrolled=unrolled)
        self.vocab_size: int = model.text_tower.vocab_size if hasattr(model, "text_tower") else model.vocab_size
        self.batch_size = batch_size

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """The greedy answer to each prompt. UserError for a picture that cannot be read and for a prompt too long."""
        out = [""] * len(prompts)
        for rows, inputs in self._batches(prompts, [self.encode(prompt) for prompt in prompts]):
            texts = list(self.generator.stream_inputs(inputs, max_new_tokens))[-1]
            for row, text in zip(rows, texts):
                out[row] = self.tokenizer.decode(text)
        return out

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str]
    ) -> tuple[Float[np.ndarray, "n"], Integer[np.ndarray, "n"]]:
        """Per pair the sum of the log-probabilities (nats) of the answer's tokens but its end, and their number."""
        encoded = [self._answered(*pair) for pair in zip(prompts, continuations, strict=True)]
        sums, counts = np.zeros(len(prompts)), np.asarray([e.answer.sum() for e in encoded], np.int64)
        for rows, inputs in self._batches(prompts, encoded):
            inputs = prompted(self.generator.variables["params"], inputs)
            length, most = inputs["tokens"].shape[1], bucket(int(counts[rows].max()))
            at = np.zeros((len(inputs["tokens"]), most), np.int32)
            keep = np.zeros(at.shape, bool)
            for place, row in enumerate(rows):
                found = np.flatnonzero(encoded[row].answer) + length - len(encoded[row].answer)
                at[place, : len(found)], keep[place, : len(found)] = found, True
            found = likelihoods(self.generator.model, self.generator.variables, inputs, at, keep)
            sums[rows] = np.asarray(found)[: len(rows)]
        return sums, counts

    def encode(self, prompt: Prompt) -> Encoded:
        """A prompt as tokens, its pictures' included.

        UserError where a picture is missing or has no place, and for an instruction that the bridge has no room for.
        """
        if not self.sees or self.processor is None:
            if prompt.pictures:
                raise UserError(f"{self.where}: the model reads text only; leave the pictures out")
            return text_only(language.prompt(self.tokenizer, prompt.messages, self.raw))
        limit, asked = self.processor.question, len(self._instruction(prompt))
        if asked > limit:
            raise UserError(f"an instruction of {asked} tokens, but the Q-Former has {limit} positions; shorten it")
        return self.processor.prompt(Conversation(list(prompt.messages), list(prompt.pictures)))

    def _instruction(self, prompt: Prompt) -> list[int]:
        """What a bridge reads beside the pictures; nothing where it reads none."""
        reads = self.processor is not None and self.processor.question and prompt.pictures
        return self.processor.asked(prompt.messages) if self.processor is not None and reads else []

    @property
    def speaks_in_turns(self) -> bool:
        """Whether a template writes more around a picture than its token."""
        if self.processor is None or not isinstance(self.tokenizer, JsonTokenizer):
            return False
        shown = self.processor.template.render([user_message("", 1)], add_generation_prompt=True)
        return self.processor.starts and shown.strip() != self.tokenizer.piece(self.processor.image_id)

    def inputs(
        self, asked: Sequence[Prompt], encoded: Sequence[Encoded], rows: int, longest: int = 0
    ) -> dict[str, np.ndarray]:
        """What the model's `prefill` takes of `rows` texts, the last one repeated; UserError for a broken picture."""
        order = [*range(len(asked)), *[len(asked) - 1] * (rows - len(asked))]
        out = dict(self.generator.batch([encoded[at].tokens.tolist() for at in order], longest))
        tiles = max(e.tiles for e in encoded)
        if self.processor is None or self.processor.pictures is None or not tiles:
            return out
        layout = self.processor.pictures
        length = out["tokens"].shape[1]
        out["image"] = np.zeros((rows, tiles, *layout.size, 3), np.float32)
        out["image_mask"] = np.zeros((rows, tiles), bool)
        out["places"] = np.full((rows, length), TEXT, np.int32)
        told = [self._instruction(prompt) for prompt in asked]
        size = min(bucket(max(QUESTION, *map(len, told))), self.processor.question)
        if size:
            out["question"] = np.zeros((rows, tiles, size), np.int32)
            out["question_mask"] = np.zeros((rows, tiles, size), bool)
        for row, at in enumerate(order):
            count = encoded[at].tiles
            out["places"][row, length - len(encoded[at].places) :] = encoded[at].places
            out["image_mask"][row, :count] = True
            if count:
                out["image"][row, :count] = arrays(layout, asked[at])
            if size:
                out["question"][row], out["question_mask"][row] = self.processor.asked_row(told[at], size)
        return out

    def _batches(
        self, prompts: Sequence[Prompt], encoded: Sequence[Encoded]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """(numbers of the prompts, inputs), every batch of one size; those with pictures apart from those without."""
        size = min(self.batch_size, len(prompts))
        order = sorted(range(len(prompts)), key=lambda i: (encoded[i].tiles, len(encoded[i].tokens)))
        for tiles in sorted({e.tiles for e in encoded}):
            alike = [i for i in order if encoded[i].tiles == tiles]
            longest = max(len(encoded[i].tokens) for i in alike)
            for start in range(0, len(alike), size):
                rows = np.asarray(alike[start : start + size])
                yield rows, self.inputs([prompts[i] for i in rows], [encoded[i] for i in rows], size, longest)

    def _answered(self, prompt: Prompt, answer: str) -> Encoded:
        """The prompt and `answer` after it, as the template writes a whole turn; the answer's own tokens are marked."""
        if self.processor is None:
            raise UserError(f"{self.where}: likelihoods need a tokenizer.json, this is {self.tokenizer.kind}")
        messages = [*prompt.messages, assistant_message(answer)]
        encoded = self.processor.encode(Conversation(messages, list(prompt.pictures)))
        last = len(encoded.answer) - 1 - int(encoded.answer[::-1].argmax())  # where the last turn ends
        first = last - int((~encoded.answer[: last + 1][::-1]).argmax()) + 1
        if encoded.tokens[last] == self.processor.end_id:
            last -= 1
        at = np.arange(len(encoded.tokens))
        return encoded._replace(answer=(at >= first) & (at <= last))


def arrays(layout: Pictures, prompt: Prompt) -> np.ndarray:
    """The tiles of a prompt's pictures; UserError names one that cannot be read."""
    try:
        return np.concatenate([layout.arrays(picture) for picture in prompt.pictures])
    except BadPicture as error:
        raise UserError(str(error)) from error


@functools.partial(jax.jit, static_argnames="model")
def likelihoods(
    model: Any, variables: Any, inputs: Any, at: Int[Array, "B K"], keep: Bool[Array, "B K"]
) -> Float[Array, "B"]:
    """Sum over the tokens at positions `at` of a row, where `keep`, of their log-probabilities given what precedes."""
    x = model.apply(variables, **inputs, at=0).tokens
    x = jnp.take_along_axis(x, jnp.maximum(at - 1, 0)[..., None], axis=1)
    logs = jax.nn.log_softmax(model.apply(variables, x, method="logits"), axis=-1)
    targets = jnp.take_along_axis(jnp.asarray(inputs["tokens"]), at, axis=1)
    return jnp.where(keep, jnp.take_along_axis(logs, targets[..., None], axis=-1)[..., 0], 0.0).sum(-1)
