"""A question to the tokens that a model continues, and its new tokens to an answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jvlm.core.errors import UserError
from jvlm.data.chat import Message, read_template
from jvlm.data.tokenizers import Tokenizer


def bare(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` without the special tokens around it: a chat template writes those itself."""
    ids = tokenizer.encode(text)
    start = len(tokenizer.prefix) if tuple(ids[: len(tokenizer.prefix)]) == tokenizer.prefix else 0
    ended = bool(tokenizer.suffix) and tuple(ids[start:])[-len(tokenizer.suffix) :] == tokenizer.suffix
    return ids[start : len(ids) - len(tokenizer.suffix) if ended else len(ids)]


def prompt(tokenizer: Tokenizer, messages: Sequence[Message], raw: bool = False) -> list[int]:
    """The tokens of a conversation that wait for the assistant.

    By the chat template among the tokenizer's files. Without one, or with `raw`, the last message's text alone with the
    tokenizer's own special tokens; UserError where that would drop an earlier message.
    """
    template = None if raw else read_template(tokenizer.to_files())
    if template is not None:
        return bare(tokenizer, template.render(messages, add_generation_prompt=True))
    if len(messages) > 1:
        raise UserError(
            "the directory has no chat template, so a conversation cannot be put together; ask one question"
        )
    content = messages[0]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    ids = tokenizer.encode(text)
    # A text is to be continued: what the tokenizer puts at its end would say that it is complete.
    return ids[: len(ids) - len(tokenizer.suffix)] if _ends_with_eos(tokenizer, ids) else ids


def _ends_with_eos(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    return bool(tokenizer.suffix) and len(ids) > 1 and ids[-1] == tokenizer.eos_id


def ends(generation: Mapping[str, Any], published: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a text: as generation_config.json names them, config.json, or the tokenizer."""
    given = generation.get("eos_token_id", published.get("eos_token_id"))
    given = tokenizer.eos_id if given is None else given
    return [] if given is None else [given] if isinstance(given, int) else list(given)


def pieces(texts: Iterator[list[list[int]]], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """What each step of a stream of one text adds to it. A character cut in two waits for its other half."""
    text = shown = ""
    for (tokens,) in texts:
        text = decode(tokens)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text.removeprefix(shown)
            shown = text
    yield text.removeprefix(shown)
