"""A conversation to tokens: rendered, tokenized, its pictures' tokens in place, what is to be learnt marked."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32

from jvlm.core.errors import UserError
from jvlm.data.chat import ChatTemplate, parts_of
from jvlm.data.conversations import Conversation
from jvlm.data.pictures import Pictures, picture_size
from jvlm.data.sources import BadSample
from jvlm.data.tokenizers import Tokenizer, file_hashes


@runtime_checkable
class SpanTokenizer(Protocol):
    """A tokenizer that tells which characters a token stands for (`JsonTokenizer`)."""

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids without special tokens around them, and [start, end) of each in `text`."""
        ...


class Encoded(NamedTuple):
    """`tokens` and `answer` [n]; `places` [n] the feature of the sample that an image token takes, -1 a new line, -2 a
    text token; `tiles` how many arrays its pictures become."""

    tokens: Int32[np.ndarray, "n"]
    answer: Bool[np.ndarray, "n"]
    places: Int32[np.ndarray, "n"]
    tiles: int


TEXT = -2
"""In `Encoded.places`: no picture's."""


@dataclasses.dataclass(frozen=True)
class MultimodalProcessor:
    """What a model makes of conversations: rows of `length` tokens with at most `max_tiles` tiles.

    `image_id` is the token that is repeated for a picture, `end_id` the one that ends an answer, `pad_id` fills up.
    The tokenizer's special tokens are put before the text unless it begins with the start token, as transformers'
    processors do (unless not `starts`). A bridge that reads what is asked is given it as `asker` (None: `tokenizer`)
    makes it, `question` tokens at most.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    pictures: Pictures | None
    image_id: int | None
    length: int
    end_id: int | None = None
    max_tiles: int = 1
    question: int = 0
    starts: bool = True
    asker: Tokenizer | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tokenizer, SpanTokenizer):
            raise UserError(f"conversations need a tokenizer.json, this is {self.tokenizer.kind}")

    def encode(self, conversation: Conversation) -> Encoded:
        """The conversation as tokens, cut at `length` on the right.

        BadSample when a picture is missing or cannot be placed, when its tokens or all of the answer would be cut, when
        the pictures become more than `max_tiles`, and when there is nothing to learn.
        """
        where = conversation.key or "conversation"
        try:
            text, answers = self.template.render_answers(conversation.messages)
        except UserError as error:
            raise BadSample(f"{where}: {error}", "no place in the template") from error
        ids, spans = self._tokenize(text)
        answer = [any(a < end and b > start for a, b in answers) for start, end in spans]
        if answers and self.end_id is not None and answers[-1][1] == len(text) and self.end_id not in ids[-1:]:
            ids, answer = self._ended(ids, answer, text)
        encoded = self._placed(ids, answer, conversation, where)
        if not encoded.answer.any():
            raise BadSample(f"{where}: nothing to learn in it", "empty answer")
        return self._cut(encoded, where)

    def prompt(self, conversation: Conversation, continuation: str = "") -> Encoded:
        """The conversation up to the answer that is to be given, and `continuation` after it; not cut.

        `answer` marks the continuation. UserError as `encode`.
        """
        where = conversation.key or "prompt"
        text = self.template.render(conversation.messages, add_generation_prompt=True)
        ids, spans = self._tokenize(text + continuation)
        answer = [end > len(text) for _, end in spans]
        return self._placed(ids, answer, conversation, where)

    def asked(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The first text of the user as a bridge reads it, not cut."""
        first = next((m for m in messages if m["role"] == "user"), {"content": ""})
        asker = self.asker or self.tokenizer
        return list(asker.encode("".join(part.get("text", "") for part in parts_of(first["content"]))))

    def asked_row(self, ids: Sequence[int], size: int) -> tuple[Int32[np.ndarray, "u"], Bool[np.ndarray, "u"]]:
        """`asked` as `size` tokens, cut or padded on the right, and which of them count."""
        row = np.full(size, (self.asker or self.tokenizer).pad_id, np.int32)
        row[: len(ids)] = ids[:size]
        return row, np.arange(size) < len(ids)

    def fingerprint(self) -> str:
        """Changes with whatever changes the tokens."""
        fields = [file_hashes(self.tokenizer), self.template.source, dict(self.template.special_tokens)]
        rest = [self.template.image_text, repr(self.pictures), self.image_id, self.length, self.end_id, self.max_tiles]
        return hashlib.sha256(json.dumps([*fields, *rest], sort_keys=True).encode()).hexdigest()

    def _tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        assert isinstance(self.tokenizer, SpanTokenizer)
        ids, spans = self.tokenizer.spans(text)
        prefix = list(self.tokenizer.prefix)
        if self.starts and prefix and ids[: len(prefix)] != prefix:
            ids, spans = [*prefix, *ids], [*[(0, 0)] * len(prefix), *spans]
        return list(ids), list(spans)

    def _ended(self, ids: list[int], answer: list[bool], text: str) -> tuple[list[int], list[bool]]:
        """The end token behind the last answer, for templates that do not write it; white space before it goes."""
        assert self.end_id is not None
        kept, _ = self._tokenize(text.rstrip())
        if ids[: len(kept)] == kept:
            ids, answer = kept, answer[: len(kept)]
        return [*ids, self.end_id], [*answer, True]

    def _placed(self, ids: list[int], answer: list[bool], conversation: Conversation, where: str) -> Encoded:
        slots = [at for at, token in enumerate(ids) if token == self.image_id]
        pictures = conversation.images
        if len(slots) != len(pictures):
            raise BadSample(
                f"{where}: {len(pictures)} pictures for {len(slots)} image tokens; give as many as the text has places",
                "pictures without a place",
            )
        if not pictures:
            return _encoded(ids, answer, [TEXT] * len(ids), 0)
        if self.pictures is None:
            raise BadSample(f"{where}: a picture, but the model takes none", "pictures without a place")
        sizes = [picture_size(p, where) for p in pictures]
        out: tuple[list[int], list[bool], list[int]] = ([], [], [])
        tiles, last = 0, 0
        for at, (height, width) in zip(slots, sizes):
            places = self.pictures.places(height, width)
            first = tiles * self.pictures.features
            out[0].extend([*ids[last:at], *[ids[at]] * len(places)])
            out[1].extend([*answer[last:at], *[False] * len(places)])
            out[2].extend([*[TEXT] * (at - last), *np.where(places < 0, places, places + first).tolist()])
            tiles += self.pictures.tiles(height, width)
            last = at + 1
        tail = len(ids) - last
        return _encoded([*out[0], *ids[last:]], [*out[1], *answer[last:]], [*out[2], *[TEXT] * tail], tiles)

    def _cut(self, encoded: Encoded, where: str) -> Encoded:
        if encoded.tiles > self.max_tiles:
            raise BadSample(
                f"{where}: its pictures become {encoded.tiles} tiles, a row has {self.max_tiles}", "too many pictures"
            )
        size = len(encoded.tokens)
        if size <= self.length:
            return encoded
        if (encoded.places[self.length :] != TEXT).any():
            raise BadSample(f"{where}: image tokens would be cut, {size} tokens for {self.length}", "image tokens cut")
        if not encoded.answer[: self.length].any():
            raise BadSample(f"{where}: the answer would be cut, {size} tokens for {self.length}", "answer cut")
        tokens, answer, places, tiles = encoded
        return Encoded(tokens[: self.length], answer[: self.length], places[: self.length], tiles)


def text_only(ids: Sequence[int]) -> Encoded:
    """Tokens of a prompt without pictures."""
    return _encoded(list(ids), [False] * len(ids), [TEXT] * len(ids), 0)


def _encoded(ids: list[int], answer: list[bool], places: list[int], tiles: int) -> Encoded:
    return Encoded(np.asarray(ids, np.int32), np.asarray(answer, bool), np.asarray(places, np.int32), tiles)
