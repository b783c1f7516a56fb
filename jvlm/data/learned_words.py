"""Words that a model has learned beside its vocabulary: negative ids for them in the tokens of a text."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jvlm.data.tokenizers import Tokenizer


def named_rows(word: str, count: int) -> tuple[str, ...]:
    """Names of the `count` vectors of a word: the word, then `word_1` and on, as diffusers names them."""
    return (word, *(f"{word}_{index}" for index in range(1, count)))


def rows_of(names: Sequence[str]) -> dict[str, list[int]]:
    """The rows of every word, from the names of all rows."""
    out: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        word, _, number = name.rpartition("_")
        if word in out and number == str(len(out[word])):
            out[word].append(row)
        else:
            out[name] = [row]
    return out


def encode(text: str, tokenizer: "Tokenizer", names: Sequence[str]) -> list[int]:
    """Token ids of a text with its special tokens; row k of the learned vectors is the id -1 - k."""
    rows = rows_of(names)
    pattern = "|".join(re.escape(word) for word in sorted(rows, key=len, reverse=True))
    front, back = len(tokenizer.prefix), len(tokenizer.suffix)
    ids = list(tokenizer.prefix)
    for part in re.split(f"({pattern})", text):
        if part in rows:
            ids += [-1 - row for row in rows[part]]
        elif part.strip():
            inside = list(tokenizer.encode(part))
            ids += inside[front : len(inside) - back]
    return [*ids, *tokenizer.suffix]
