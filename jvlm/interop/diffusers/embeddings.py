"""Learned words of text-to-image models, as diffusers' `load_textual_inversion` opens them: one file for a word."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jvlm.core.errors import UserError
from jvlm.core.tree import flatten, unflatten
from jvlm.data.learned_words import named_rows, rows_of
from jvlm.interop import safetensors
from jvlm.interop.diffusers.parts import FAMILY, joined, parts
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import write_whole
from jvlm.transforms.context import Context

FILES = {"text_encoder": "learned_embeds.safetensors", "text_encoder_2": "learned_embeds_2.safetensors"}
TABLE = "text_tower/token_embed/embedding"


def holds(path: Path) -> bool:
    """Whether a safetensors file is one word with its vectors."""
    reader = safetensors.SafetensorsReader(path.parent, path.name)
    names = list(reader.names())
    return len(names) == 1 and len(reader.shape(names[0])) <= 2 and ".lora" not in names[0]


def load(path: Path, base: Pretrained, name: str = "default") -> Pretrained:
    """`base` that knows the word in the file `path`; a second text tower's vectors lie beside it in `*_2.safetensors`.

    The word's rows are the adapter `name`, or go with those that are there. UserError for vectors of another width and
    a word that is known already.
    """
    text = base.processor.text
    if base.config["family"] != FAMILY or text is None:
        raise UserError(f"{path} is a learned word of a text-to-image model, which this is not")
    changed: dict[str, Pretrained] = {}
    found: dict[str, tuple[str, ...]] = {}
    for folder, part in parts(base).items():
        if folder not in FILES:
            continue
        file = path if folder == "text_encoder" else path.with_name(f"{path.stem}_2{path.suffix}")
        if not file.is_file():
            raise UserError(
                f"{file} is missing: the model has two text towers, and a learned word has vectors for both"
            )
        reader = safetensors.SafetensorsReader(file.parent, file.name)
        (word,) = reader.names()
        rows = np.atleast_2d(reader.read(word)).astype(np.float32)
        found[folder] = named_rows(word, len(rows))
        flat = flatten(part.params)
        flat[TABLE] = _with_rows(flat[TABLE], rows, name, file)
        changed[folder] = replace(part, params=unflatten(flat))
    names, *others = found.values()
    if any(other != names for other in others):
        raise UserError(f"{path}: the vectors for the two text towers are of different words")
    if known := set(names) & set(text.words):
        raise UserError(f"{path}: the model has learned {sorted(known)[0]!r} already")
    whole = joined(base, changed)
    return replace(whole, processor=replace(whole.processor, text=replace(text, words=(*text.words, *names))))


def _with_rows(table: Any, rows: np.ndarray, name: str, where: Path) -> Context:
    if rows.shape[1] != table.shape[1]:
        raise UserError(f"{where}: vectors of {rows.shape[1]}, but the text tower's have {table.shape[1]}")
    if isinstance(table, Context):
        return table.replace(rows=jnp.concatenate([table.rows, rows]))
    return Context(table, jnp.asarray(rows), name=name)


def save(pretrained: Pretrained, path: Path) -> None:
    """Writes the model's learned words: the files of one into the folder `path`, of several into a folder for each.

    UserError for a model that has learned none.
    """
    text = pretrained.processor.text
    words = rows_of(text.words) if text is not None else {}
    if not words or pretrained.config["family"] != FAMILY:
        raise UserError("the model has learned no words; --format diffusers writes the model itself")
    towers = parts(pretrained)
    tables: Mapping[str, Any] = {
        file: flatten(towers[folder].params)[TABLE].rows for folder, file in FILES.items() if folder in towers
    }

    def fill(part: Path) -> None:
        for word, rows in words.items():
            folder = part if len(words) == 1 else part / (re.sub(r"\W+", "", word) or str(rows[0]))
            for file, table in tables.items():
                safetensors.write(folder, [(word, np.asarray(table)[rows])], file)

    write_whole(path, fill)
