"""A token more in a tokenizer's files: what stands for a picture in the vocabulary of a model that had none."""

import json
from collections.abc import Mapping
from typing import Any

from jvlm.core.errors import UserError


def with_special_token(files: Mapping[str, bytes], text: str) -> tuple[dict[str, bytes], int]:
    """`files` with the special token `text` behind the vocabulary, and its id; as they are where they have it already.

    UserError without a `tokenizer.json`.
    """
    if "tokenizer.json" not in files:
        raise UserError(f"no tokenizer.json among {sorted(files)}; a token cannot be added to the others")
    values = json.loads(files["tokenizer.json"])
    added = values.setdefault("added_tokens", [])
    for token in added:
        if token["content"] == text:
            return dict(files), int(token["id"])
    known = _ids(values["model"].get("vocab", {}))
    number = 1 + max([-1, *known, *(token["id"] for token in added)])
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    added.append({"id": number, "content": text, **flags})
    out = {**files, "tokenizer.json": json.dumps(values, ensure_ascii=False).encode()}
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"][str(number)] = {"content": text, **flags}
        out["tokenizer_config.json"] = json.dumps(config, ensure_ascii=False).encode()
    return out, number


def _ids(vocab: Any) -> list[int]:
    return list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
