"""Conversations to text by a model directory's own chat template, equal to transformers' `apply_chat_template`.

A message is `{"role": "user" | "assistant" | "system", "content": TEXT | PARTS}` with parts `{"type": "image"}` and
`{"type": "text", "text": TEXT}`, as transformers has them. The pictures themselves travel beside the messages.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from jvlm.core.errors import UserError
from jvlm.data.chat_environment import BEGIN, END, compiled, plain
from jvlm.data.tokenizer_config import read_config, special_names

Message = Mapping[str, Any]

TEMPLATE_FILES = ("chat_template.json", "chat_template.jinja", "tokenizer_config.json")
"""Where a directory keeps its template; the first that holds one counts."""
_PROBE = "jvlm probe"


class Rendered(NamedTuple):
    """`text`, and the spans [start, end) of its characters that the assistant says."""

    text: str
    answers: list[tuple[int, int]]


@dataclass(frozen=True)
class ChatTemplate:
    """`source` is the Jinja text, `special_tokens` what it may name (`bos_token`, `eos_token`, ...).

    A template that knows parts gets messages in parts. One that takes text only gets each content as a text, pictures
    as `image_text` at the places where they stand; without `image_text` a picture is a UserError.
    """

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    image_text: str | None = None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False, **values: Any) -> str:
        """The conversation as text; `add_generation_prompt` opens the assistant's next turn.

        UserError, in one line, when the template is broken, refuses the roles, or has no place for a picture.
        """
        return self._render(False, self._fitted(messages), add_generation_prompt, values)

    def render_answers(self, messages: Sequence[Message], **values: Any) -> Rendered:
        """The conversation as text with the spans that are to be learnt, the token that ends a turn included.

        From the template's generation tags where it has them, else by rendering the turns before each answer. UserError
        when the template writes earlier turns differently once others follow, so that the spans cannot be told.
        """
        fitted = self._fitted(messages)
        text = self._render(False, fitted, False, values)
        if "endgeneration" in self.source:
            spans = _marks(self._render(True, fitted, False, values), text)
        else:
            spans = [self._span(fitted, at, text, values) for at, m in enumerate(fitted) if m["role"] == "assistant"]
        return Rendered(text, [self._trimmed(text, *span) for span in spans])

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether the template reads a content in parts, rather than as one text."""
        try:
            shown = self._render(False, _probe({"type": "text", "text": _PROBE}), False, {})
        except UserError:
            return False
        return _PROBE in shown and "'type'" not in shown and '"type"' not in shown

    @functools.cached_property
    def has_image_slot(self) -> bool:
        """Whether a picture leaves a trace in what is rendered."""
        if not self.takes_parts:
            return self.image_text is not None
        text = {"type": "text", "text": _PROBE}
        return self._render(False, _probe({"type": "image"}, text), False, {}) != self._render(
            False, _probe(text), False, {}
        )

    def _fitted(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """`messages` with contents as the template takes them, keys without a value left out."""
        if not messages:
            raise UserError("a conversation without messages: give at least one")
        out = []
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise UserError(f"a message needs a role and a content, got {str(message)[:80]!r}")
            kept = {k: plain(v) for k, v in message.items() if v is not None}
            parts = parts_of(kept.get("content", ""))
            if any(p["type"] == "image" for p in parts) and not self.has_image_slot:
                raise UserError(
                    "the chat template has no place for a picture; use a directory whose template has one, "
                    "or name the text that stands for a picture"
                )
            out.append({**kept, "content": parts if self.takes_parts else self._flat(parts)})
        return out

    def _flat(self, parts: Sequence[Mapping[str, str]]) -> str:
        texts = [(self.image_text or "") if p["type"] == "image" else p["text"] for p in parts]
        return "".join(texts)

    def _render(
        self, marked: bool, messages: Sequence[Message], add_generation_prompt: bool, values: Mapping[str, Any]
    ) -> str:
        given = {"tools": None, "documents": None, **self.special_tokens, **{k: plain(v) for k, v in values.items()}}
        try:
            template = compiled(self.source, marked)
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **given)
        except TemplateSyntaxError as error:
            raise UserError(f"the chat template is broken in line {error.lineno}: {error.message}") from error
        except TemplateError as error:
            raise UserError(f"the chat template refuses the conversation: {_line(error)}") from error
        except Exception as error:  # a template is a program: it can fail in any way
            raise UserError(f"the chat template fails: {type(error).__name__}: {_line(error)}") from error

    def _span(self, messages: Sequence[Message], at: int, text: str, values: Mapping[str, Any]) -> tuple[int, int]:
        before = self._render(False, messages[:at], True, values) if at else ""
        through = self._render(False, messages[: at + 1], False, values)
        if not (text.startswith(before) and through.startswith(before) and text.startswith(through)):
            raise UserError(
                f"the chat template writes turn {at + 1} differently when others follow, so what is to be learnt "
                "cannot be told; give a template with generation tags"
            )
        return len(before), len(through)

    def _trimmed(self, text: str, start: int, end: int) -> tuple[int, int]:
        """The span up to the special token that ends it: white space after that is never generated."""
        kept = len(text[start:end].rstrip())
        ends = self.special_tokens.get("eos_token")
        return start, start + kept if ends and text[start : start + kept].endswith(ends) else end


def read_template(files: Mapping[str, bytes], image_text: str | None = None) -> ChatTemplate | None:
    """The template among a directory's files by name (`TEMPLATE_FILES`, `special_tokens_map.json`), or None.

    Of several named ones it is the one called "default". UserError for a file that is not what its name says.
    """
    try:
        source = _template_of(files)
        special = special_names(read_config(files))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"the chat template's file is broken ({error}): fetch the directory again") from error
    return None if source is None else ChatTemplate(source, special, image_text)


def _template_of(files: Mapping[str, bytes]) -> str | None:
    if "chat_template.json" in files:
        return json.loads(files["chat_template.json"])["chat_template"]
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8")
    found = json.loads(files.get("tokenizer_config.json", b"{}")).get("chat_template")
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found


def user_message(text: str, pictures: int = 0) -> dict[str, Any]:
    """One user message, its pictures before the text."""
    return {"role": "user", "content": [{"type": "image"}] * pictures + [{"type": "text", "text": text}]}


def assistant_message(text: str) -> dict[str, Any]:
    """One answer."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def parts_of(content: Any) -> list[dict[str, str]]:
    """A content as parts, each `{"type": "image"}` or `{"type": "text", "text": ...}`; UserError for anything else."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    out: list[dict[str, str]] = []
    for part in content if isinstance(content, Sequence) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            out.append({"type": "text", "text": part["text"]})
        elif kind in ("image", "image_url"):
            out.append({"type": "image"})
        else:
            raise UserError(f"a message's content has parts of type text or image, got {str(part)[:80]!r}")
    return out


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _probe(*parts: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def _marks(marked: str, text: str) -> list[tuple[int, int]]:
    """The spans between BEGIN and END, in the text without them."""
    spans, length, start = [], 0, 0
    for piece in marked.replace(BEGIN, END + BEGIN).split(END):
        if piece.startswith(BEGIN):
            start = length
            length += len(piece) - 1
            spans.append((start, length))
        else:
            length += len(piece)
    if marked.replace(BEGIN, "").replace(END, "") != text:
        raise UserError("the chat template computes with what stands in its generation tags; it cannot be marked")
    return spans
