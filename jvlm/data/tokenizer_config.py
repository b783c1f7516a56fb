"""The special tokens of a transformers directory, from whichever of its files names them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def read_config(files: Mapping[str, bytes]) -> dict[str, Any]:
    """`tokenizer_config.json`; in older directories `special_tokens_map.json` overrides it."""
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    if "added_tokens_decoder" not in config:
        config |= json.loads(files.get("special_tokens_map.json", b"{}"))
    return config


def special_names(config: Mapping[str, Any]) -> dict[str, str]:
    """The text of each named special token that `config` sets."""
    return {key: _content(config[key]) for key in NAMED if config.get(key)}


def added_tokens(config: Mapping[str, Any], saved: Sequence[Mapping[str, Any]] = ()) -> list[AddedToken]:
    """The tokens that `config` adds, else those `saved` in a `tokenizer.json`, by id; then the named ones."""
    entries = [(int(i), token) for i, token in config.get("added_tokens_decoder", {}).items()]
    entries = sorted(entries or ((token["id"], token) for token in saved), key=lambda item: item[0])
    tokens = {t["content"]: _added(t, t.get("special", False)) for _, t in entries}
    for key in NAMED:
        if (token := config.get(key)) and _content(token) not in tokens:
            flags = token if isinstance(token, Mapping) else {"normalized": False}
            tokens[_content(token)] = _added({**flags, "content": _content(token)}, special=True)
    return list(tokens.values())


def _added(token: Mapping[str, Any], special: bool) -> AddedToken:
    return AddedToken(token["content"], special=special, **{k: token[k] for k in FLAGS if k in token})


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]
