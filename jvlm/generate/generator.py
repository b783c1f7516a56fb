"""Prompts of any length to texts: buckets of shapes, batches, stop strings, streaming."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jvlm.core.errors import UserError
from jvlm.core.leaves import Leaf, learned_rows
from jvlm.generate import decoding
from jvlm.generate.beam import search
from jvlm.generate.sampling import Sampling
from jvlm.nn.layers import unstack
from jvlm.transforms.context import NO_TOKEN, prompted

Decode = Callable[[list[int]], str]
GREEDY = Sampling()
TOWERS = ("text_tower", "image_tower")


def bucket(length: int) -> int:
    """The shape that `length` is padded to: at least 8, and at most an eighth more than needed."""
    unit = max(8, 1 << max(length.bit_length() - 4, 0))
    return -(-length // unit) * unit


@dataclasses.dataclass(frozen=True)
class Writing:
    """How texts are written: `how` tokens are chosen, with which `seed`, and what ends a text.

    A text also ends with the token that completes one of the strings `stop` in what `decode` makes of it. A stream
    gives the texts so far each `every` tokens (None: at the end; with stop strings, each 8).
    """

    how: Sampling = GREEDY
    seed: int = 0
    stop: Sequence[str] = ()
    decode: Decode | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        if self.stop and self.decode is None:
            raise ValueError("stop strings need `decode`, which turns tokens into text")


class Generator:
    """Writes texts with a model that has `empty_cache`, `prefill` and `step`, such as `models.decoder.Decoder`.

    `ends` are the tokens after which a text is complete, `pad` fills up a batch. On a CPU the layers are unrolled and
    their parameters taken out of the stack once, since a step would copy each of them otherwise (`unrolled` decides
    it by hand). Weights are cast to the model's dtype once; weight leaves stay as they are.
    """

    def __init__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        *,
        ends: Sequence[int],
        pad: int = 0,
        unrolled: bool | None = None,
    ) -> None:
        self.unrolled = jax.default_backend() == "cpu" if unrolled is None else unrolled
        params = jax.tree.map(lambda x: _cast(x, model.dtype), variables["params"], is_leaf=_is_leaf)
        if self.unrolled:
            model, params = _unrolled(model, params)
        self.model = model
        self.variables = {**variables, "params": params}
        self.ends = jnp.asarray(list(ends) or [NO_TOKEN], jnp.int32)
        self.pad = pad

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> list[list[int]]:
        """New tokens of each prompt, the end token included where it was reached. `options` are fields of `Writing`.

        UserError for a prompt that is empty or leaves no room in the model's positions.
        """
        return list(self.stream(prompts, max_new_tokens, **options))[-1]

    def stream(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any
    ) -> Iterator[list[list[int]]]:
        """As `generate`, the texts so far each `every` tokens."""
        yield from self.stream_inputs(self.batch(prompts), max_new_tokens, rows=len(prompts), **options)

    def stream_inputs(
        self, inputs: Mapping[str, Any], max_new_tokens: int, *, rows: int | None = None, **options: Any
    ) -> Iterator[list[list[int]]]:
        """`stream` of arrays as the model's `prefill` takes them: `tokens` or `embeddings`, and `mask`."""
        writing = Writing(**options)
        inputs = prompted(self.variables["params"], inputs)
        length = inputs["mask"].shape[1]
        room = self._room(inputs, max_new_tokens)
        every = writing.every or (8 if writing.stop else room)
        key = jax.random.key(writing.seed)
        slots = bucket(length + room)
        state = decoding.start(
            self.model, self.variables, dict(inputs), writing.how, self.ends, key,
            slots=slots, room=bucket(room), stacked=not self.unrolled,
        )  # fmt: skip
        ended: set[int] = set()
        while True:
            tokens, count = np.asarray(state.tokens), int(state.count)
            texts = [self._cut(row[:count], writing) for row in tokens[:rows]]
            ended |= {at for at, text in enumerate(texts) if len(text) < count or self._is_end(text)}
            ended |= {at for at, text in enumerate(texts) if _stops(text, writing)}
            yield texts
            if count >= room or len(ended) == len(texts):
                return
            limit = jnp.asarray(min(count + every, room), jnp.int32)
            state = decoding.proceed(self.model, self.variables, state, writing.how, self.ends, limit)

    def beams(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        num_beams: int,
        *,
        length_penalty: float = 1.0,
        early: bool = False,
        how: Sampling = GREEDY,
    ) -> list[list[int]]:
        """The best text of each prompt that beam search finds; of `how` the repetition penalty alone counts."""
        options: dict[str, Any] = dict(length_penalty=length_penalty, early=early, how=how)
        return self.beams_inputs(self.batch(prompts), max_new_tokens, num_beams, **options)[: len(prompts)]

    def beams_inputs(
        self, inputs: Mapping[str, Any], max_new_tokens: int, num_beams: int, *, length_penalty: float = 1.0,
        early: bool = False, how: Sampling = GREEDY,
    ) -> list[list[int]]:  # fmt: skip
        """`beams` of arrays as the model's `prefill` takes them."""
        inputs = prompted(self.variables["params"], inputs)
        room = self._room(inputs, max_new_tokens)
        slots = bucket(inputs["mask"].shape[1] + room)
        tokens, lengths = search(
            self.model, self.variables, dict(inputs), how, self.ends, jnp.asarray(room, jnp.int32),
            jnp.asarray(length_penalty, jnp.float32), num_beams=num_beams, early=early,
            slots=slots, room=bucket(room), stacked=not self.unrolled,
        )  # fmt: skip
        return [row[:count].tolist() for row, count in zip(np.asarray(tokens), np.asarray(lengths))]

    def batch(self, prompts: Sequence[Sequence[int]], longest: int = 0) -> dict[str, np.ndarray]:
        """`tokens` and `mask` [B, T] of prompts padded on the left to a common bucket, that of `longest` at least."""
        if not prompts or not all(prompts):
            raise UserError("an empty prompt: give at least one token to continue")
        length = bucket(max(longest, *map(len, prompts)))
        tokens = np.full((len(prompts), length), self.pad, np.int32)
        mask = np.zeros((len(prompts), length), bool)
        for row, prompt in enumerate(prompts):
            tokens[row, length - len(prompt) :] = prompt
            mask[row, length - len(prompt) :] = True
        return dict(tokens=tokens, mask=mask)

    def _room(self, inputs: Mapping[str, Any], max_new_tokens: int) -> int:
        longest = int(np.asarray(inputs["mask"]).sum(1).max()) + learned_rows(self.variables["params"])
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}; ask for at least one token")
        room = min(max_new_tokens, self.model.room(longest))
        if room < 1:
            raise UserError(
                f"a prompt of {longest} tokens, but the model has {self.model.length} positions; shorten the prompt"
            )
        return room

    def _is_end(self, text: list[int]) -> bool:
        return bool(text) and text[-1] in np.asarray(self.ends)

    def _cut(self, row: np.ndarray, writing: Writing) -> list[int]:
        """The text of a row up to its first end, token or string."""
        at = np.flatnonzero(np.isin(row, np.asarray(self.ends)))
        text = row[: at[0] + 1].tolist() if len(at) else row.tolist()
        if not _stops(text, writing):
            return text
        low, high = 1, len(text)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _stops(text[:middle], writing) else (middle + 1, high)
        return text[:low]


def _stops(text: list[int], writing: Writing) -> bool:
    if not writing.stop or writing.decode is None:
        return False
    said = writing.decode(text)
    return any(string in said for string in writing.stop)


def _unrolled(model: Any, params: Any) -> tuple[Any, Any]:
    """The model that writes with its layers unrolled: of one that sees, its towers'."""
    if not hasattr(model, "text_tower"):
        return model.clone(scan=False), unstack(params)
    towers = {name: getattr(model, name).clone(scan=False) for name in TOWERS if hasattr(model, name)}
    return model.clone(**towers), {**params, **{name: unstack(params[name]) for name in towers}}


def _is_leaf(x: Any) -> bool:
    return isinstance(x, Leaf)


def _cast(x: Any, dtype: Any) -> Any:
    return x if _is_leaf(x) or x.dtype == dtype else jnp.asarray(x, dtype)
