"""The manifest of a step: what was saved, and the digests that prove it. jvlm writes it when Orbax is done.

A step is complete if and only if its manifest is there and agrees with its own digest. The file is one JSON
object, `{"sha256": "...", "manifest": {...}}`, in which the digest covers the bytes of the inner object; it
is accepted only if sealing those bytes again gives the same file, so that no bit of it can change unseen.
"""

import hashlib
import json
from typing import Any, NamedTuple

from etils import epath

from jvlm.checkpoint.integrity import FileRecord, Problem
from jvlm.core.errors import UserError
from jvlm.core.files import plain, write_atomic

NAME = "manifest.json"
FORMAT = 1

_HEAD, _MIDDLE, _TAIL = b'{"sha256": "', b'", "manifest": ', b"}\n"


class LeafRecord(NamedTuple):
    """What a manifest knows about one leaf."""

    shape: tuple[int, ...]
    dtype: str
    sum: int
    """`integrity.leaf_sum` of the array that was saved."""
    key_impl: str | None
    """Implementation of a typed PRNG key, None for any other array."""


class Manifest(NamedTuple):
    """All that a step knows about itself."""

    step: int
    meta: dict[str, Any]
    metrics: dict[str, float]
    leaves: dict[str, LeafRecord]
    files: dict[str, FileRecord]


def step_name(step: int) -> str:
    """Folder of a step: `00000100`."""
    return f"{step:08d}"


def parse_step(name: str) -> int | None:
    """The step whose folder is called `name`, or None."""
    return int(name) if name.isascii() and name.isdecimal() and step_name(int(name)) == name else None


def step_folders(directory: epath.Path) -> dict[int, epath.Path]:
    """`{step: folder}` of every step below `directory`, complete or not, oldest first."""
    if not directory.exists():
        return {}
    found = {parse_step(entry.name): entry for entry in directory.iterdir()}
    return {step: found[step] for step in sorted(step for step in found if step is not None)}


def encode(meta: dict[str, Any]) -> str:
    """`meta` as JSON. Raises UserError for what JSON cannot hold; numpy and jax scalars become numbers."""
    try:
        return json.dumps(meta, default=plain)
    except (TypeError, ValueError) as error:
        raise UserError(f"meta of a checkpoint: {error}; give numbers, strings, lists and dicts") from error


def write(folder: epath.Path, manifest: Manifest) -> None:
    """Seals `manifest` into `folder`, atomically: this is what makes the step complete."""
    body = {
        "format": FORMAT,
        "step": manifest.step,
        "meta": manifest.meta,
        "metrics": manifest.metrics,
        "leaves": {name: record._asdict() for name, record in manifest.leaves.items()},
        "files": {name: record._asdict() for name, record in manifest.files.items()},
    }
    write_atomic(folder / NAME, _seal(json.dumps(body).encode()))


def read(folder: epath.Path, step: int) -> Manifest | Problem:
    """The manifest in `folder`, or what is wrong with it."""
    where = f"step {step}, file {NAME}"
    try:
        raw = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return Problem(where, "missing: the save of this step never finished")
    except OSError as error:
        return Problem(where, f"cannot be read ({error.strerror or error})")
    body = raw[len(_HEAD) + 64 + len(_MIDDLE) : -len(_TAIL)]
    if _seal(body) != raw:
        return Problem(where, "its content has changed since it was written (its own SHA-256 differs)")
    content = json.loads(body)
    if content["format"] != FORMAT:
        return Problem(where, f"format {content['format']}; this version of jvlm reads format {FORMAT}")
    if content["step"] != step:
        return Problem(where, f"belongs to step {content['step']}: the folder was renamed or copied")
    return Manifest(
        step=step,
        meta=content["meta"],
        metrics=content["metrics"],
        leaves={
            name: LeafRecord(tuple(leaf["shape"]), leaf["dtype"], leaf["sum"], leaf["key_impl"])
            for name, leaf in content["leaves"].items()
        },
        files={name: FileRecord(file["size"], file["sha256"]) for name, file in content["files"].items()},
    )


def _seal(body: bytes) -> bytes:
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _TAIL
