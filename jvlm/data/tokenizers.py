"""Text to token ids: one protocol, and which kind a directory's files make.

The directory decides: a transformers directory is tokenized as its own tokenizer does, an open_clip directory
with open_clip's cleaning. `to_files` gives back the very files a tokenizer was made from."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from jvlm.core.errors import UserError, nearest


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    `prefix` and `suffix` are the special tokens around every text; `suffix` survives truncation. `kind` and
    `options` (plain values) together with the files make the tokenizer again.
    """

    kind: str
    options: dict[str, Any]
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids with special tokens, neither cut nor padded."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        ...

    def to_files(self) -> dict[str, bytes]:
        """The files of the tokenizer, by name, as they were read."""
        ...


def _clip_bpe(files: Mapping[str, bytes], options: Mapping[str, Any]) -> Tokenizer:
    from jvlm.data.clip_bpe import ClipTokenizer

    return ClipTokenizer(files, **options)


def _sentencepiece(files: Mapping[str, bytes], options: Mapping[str, Any]) -> Tokenizer:
    from jvlm.data.sentencepiece_model import SentencePieceTokenizer

    return SentencePieceTokenizer(files, **options)


def _json(files: Mapping[str, bytes], options: Mapping[str, Any]) -> Tokenizer:
    from jvlm.data.tokenizer_json import JsonTokenizer

    return JsonTokenizer(files, **options)


TOKENIZERS: dict[str, Callable[[Mapping[str, bytes], Mapping[str, Any]], Tokenizer]] = {
    "clip_bpe": _clip_bpe,
    "sentencepiece": _sentencepiece,
    "tokenizer_json": _json,
}

PIECES = {"spiece.model", "tokenizer.model", "sentencepiece.model"}
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", *sorted(PIECES), "chat_template.jinja", "chat_template.json"),
)
"""Names that a directory's tokenizer may consist of: what to read and hand to `tokenizer_from_files`."""


def clip_tokenizer(style: Literal["transformers", "open_clip"] = "transformers") -> Tokenizer:
    """CLIP's tokenizer with the published vocabulary that comes with the package."""
    return _clip_bpe({}, {"style": style})


def tokenizer_from_files(
    files: Mapping[str, bytes],
    *,
    style: Literal["transformers", "open_clip"] = "transformers",
    clean: str = "",
) -> Tokenizer:
    """The tokenizer that a directory's files (by name, see `FILES`) make.

    With `style="open_clip"` and no vocabulary file it is open_clip's own CLIP tokenizer; with a
    `tokenizer.json` it is open_clip's `HFTokenizer`, which cleans first (`clean`: "whitespace", "lower" or
    "canonicalize"). UserError when the files make no tokenizer."""
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    name = config.get("tokenizer_class", "").removesuffix("Fast")
    if style == "open_clip" and not {"tokenizer.json", "vocab.txt", *PIECES} & set(files):
        return _clip_bpe({}, {"style": style})
    clean = clean or ("whitespace" if style == "open_clip" else "")
    if name == "CLIPTokenizer" or (not name and "vocab.json" in files and "tokenizer.json" not in files):
        return _clip_bpe(files, {"style": "transformers", "clean": clean})
    if PIECES & set(files) and (name == "SiglipTokenizer" or "tokenizer.json" not in files):
        style_of_pieces = "siglip" if name in ("SiglipTokenizer", "") else "plain"
        return _sentencepiece(files, {"style": style_of_pieces, "clean": clean})
    if "tokenizer.json" in files or "vocab.txt" in files:
        return _json(files, {"clean": clean})
    raise UserError(f"no tokenizer among {sorted(files)}: expected one of {', '.join(FILES)}")


def file_hashes(tokenizer: Tokenizer) -> dict[str, str]:
    """sha256 of each file of `tokenizer`."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(tokenizer.to_files().items())}


def tokenizer_to_dict(tokenizer: Tokenizer) -> dict[str, Any]:
    """Kind, options and the hash of each file."""
    return {"kind": tokenizer.kind, "options": tokenizer.options, "files": file_hashes(tokenizer)}


def tokenizer_from_dict(values: Mapping[str, Any], files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer of `tokenizer_to_dict`; UserError when a file is missing or is not the one it was saved
    with."""
    if values["kind"] not in TOKENIZERS:
        raise UserError(f"unknown tokenizer {values['kind']!r}: {nearest(values['kind'], TOKENIZERS)}")
    wanted = {name: files[name] for name in values["files"] if name in files}
    bundled = values["kind"] == "clip_bpe" and not wanted
    missing = sorted(set(values["files"]) - set(wanted))
    if missing and not bundled:
        raise UserError(f"tokenizer file {missing[0]!r} is missing: put it beside the processor")
    tokenizer = TOKENIZERS[values["kind"]](wanted, values["options"])
    for name, digest in file_hashes(tokenizer).items():
        if values["files"].get(name) != digest:
            raise UserError(f"tokenizer file {name!r} is not the one the processor was saved with")
    return tokenizer
