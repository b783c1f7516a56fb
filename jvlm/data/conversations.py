"""Turns of text and pictures: what a conversation is, and how published records are read into one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from etils import epath

from jvlm.core.errors import UserError
from jvlm.data.chat import parts_of
from jvlm.data.image_ops import Picture
from jvlm.data.sources import BadSample

SLOT = "<image>"
"""What stands for a picture in the texts of LLaVA's and many other published records."""
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip


class Conversation(NamedTuple):
    """Messages in parts (see `data/chat.py`) and the pictures of their image parts, in order.

    Pictures are files or bytes, not yet read. `extra` is what else is known: `answers` (what counts as right, by
    annotator), `question_type` and `choices` where an evaluation needs them.
    """

    messages: list[dict[str, Any]]
    images: list[Picture]
    key: str = ""
    extra: Mapping[str, Any] = {}


@runtime_checkable
class ConversationSource(Protocol):
    """Random access to conversations, as `sources.Source` is to samples."""

    sample_bytes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation:
        """The conversation; BadSample when the record makes none. A missing picture shows when it is read."""
        ...

    def fingerprint(self) -> str:
        """Changes when the records or their order do."""
        ...


def picture_file(folder: epath.Path, name: Any, where: str) -> epath.Path:
    """The file `name` under `folder`; BadSample for a URL and for a path that leaves the folder."""
    if not isinstance(name, str) or not name:
        raise BadSample(f"{where}: {str(name)[:80]!r} names no picture", "broken record")
    if "://" in name or name.startswith(("/", "data:")) or ".." in name.split("/"):
        raise BadSample(f"{where}: {name[:80]!r} is not a file under {folder}", "picture outside the folder")
    return folder / name


def text_parts(text: str, slot: str = SLOT) -> list[dict[str, str]]:
    """`text` in parts, cut at each `slot`; the line breaks beside a slot belong to it."""
    pieces = re.split(rf"\n*{re.escape(slot)}\n*", text)
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def messages_of(record: Mapping[str, Any], where: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """(messages in parts, names of their pictures) of a record in LLaVA's or in the messages layout.

    LLaVA: `conversations` of `{"from", "value"}` and `image`, a name or several. Messages: `messages` of `{"role",
    "content"}`, the content a text with `SLOT`s or parts, which may name their picture (`image`, `path`, `url`); other
    names are in `images` or `image`. BadSample names what is wrong.
    """
    turns = record.get("conversations", record.get("messages"))
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise BadSample(f"{where}: neither 'conversations' nor 'messages' holds turns", "broken record")
    messages, named = [], []
    for turn in turns:
        role = ROLES.get(str(turn.get("from", turn.get("role")))) if isinstance(turn, Mapping) else None
        if role is None:
            raise BadSample(f"{where}: a turn of nobody known: {str(turn)[:80]!r}", "broken record")
        content = turn.get("value", turn.get("content"))
        if isinstance(content, str):
            parts = text_parts(content)
            named += [None] * sum(p["type"] == "image" for p in parts)
        else:
            try:
                parts = parts_of(content)
            except UserError as error:
                raise BadSample(f"{where}: {error}", "broken record") from error
            named += [_name(p) for p in content if p["type"] != "text"]
        messages.append({"role": role, "content": parts})
    beside = record.get("images", record.get("image"))
    beside = [] if beside is None else [beside] if isinstance(beside, str) else list(beside)
    free = sum(name is None for name in named)
    if free != len(beside):
        raise BadSample(
            f"{where}: {len(beside)} pictures beside the text and {free} places for them", "pictures without a place"
        )
    rest = iter(beside)
    return messages, [next(rest) if name is None else name for name in named]


def _name(part: Mapping[str, Any]) -> str | None:
    for key in ("image", "path", "url", "image_url"):
        value = part.get(key)
        value = value.get("url") if isinstance(value, Mapping) else value
        if value is not None:
            return value
    return None


def require_answers(messages: Sequence[Mapping[str, Any]], where: str) -> None:
    """BadSample when the assistant says nothing, or says nothing in one of its turns."""
    said = ["".join(p.get("text", "") for p in m["content"]).strip() for m in messages if m["role"] == "assistant"]
    if not said or not all(said):
        raise BadSample(f"{where}: {'an empty answer' if said else 'no answer'}", "empty answer")
