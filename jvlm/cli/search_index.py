"""Embeddings of a folder's pictures, kept in a file and renewed where a picture or the model has changed."""

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jvlm.core.files import write_atomic
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten
from jvlm.evals.encoder import Encoder
from jvlm.interop.pretrained import Pretrained


class Index(NamedTuple):
    """`names` under the folder with their `embeddings`; `failures` by name; how many were `embedded` just now."""

    names: list[str]
    embeddings: np.ndarray
    failures: dict[str, str]
    embedded: int


def model_fingerprint(pretrained: Pretrained) -> str:
    """Changes with any weight, field of the configuration or detail of the preprocessing."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(pretrained.config, sort_keys=True, default=str).encode())
    digest.update(pretrained.processor.fingerprint().encode())
    for path, leaf in sorted(flatten({"params": pretrained.params, **pretrained.state}).items()):
        arrays = jax.tree.leaves(leaf) if isinstance(leaf, Leaf) else [leaf]
        for array in arrays:
            host = np.ascontiguousarray(array)
            digest.update(f"{path} {host.dtype} {host.shape}".encode())
            digest.update(host.view(np.uint8).data if host.ndim else host.tobytes())
    return digest.hexdigest()


def default_cache(folder: Path, model: str) -> Path:
    """A file for each folder and model, under `$XDG_CACHE_HOME` or `~/.cache`."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jvlm" / "search"
    place = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    return root / f"{place}-{model[:16]}.npz"


def embed_folder(encoder: Encoder, folder: Path, files: list[Path], cache: Path, model: str) -> Index:
    """Embeddings of `files`, those of `cache` reused where name, size and time are the same."""
    known = read_cache(cache, model)
    stamps = {str(path.relative_to(folder)): stamp(path) for path in files}
    new = [name for name, at in stamps.items() if name not in known or known[name][0] != at]
    failed: dict[int, str] = {}
    fresh = encoder.images([folder / name for name in new], failed)
    failures = {new[at]: reason for at, reason in sorted(failed.items())}
    rows = {name: z for at, (name, z) in enumerate(zip(new, fresh)) if at not in failed}
    rows |= {name: z for name, (at, z) in known.items() if name in stamps and name not in rows and stamps[name] == at}
    names = [name for name in stamps if name in rows]
    embeddings = np.stack([rows[name] for name in names]) if names else np.zeros((0, fresh.shape[1]), np.float32)
    if new or len(known) != len(names):
        write_cache(cache, model, names, [stamps[name] for name in names], embeddings)
    return Index(names, embeddings, failures, len(new) - len(failures))


def stamp(path: Path) -> str:
    """Size and time of a file."""
    about = path.stat()
    return f"{about.st_size} {about.st_mtime_ns}"


def read_cache(cache: Path, model: str) -> dict[str, tuple[str, np.ndarray]]:
    """(stamp, embedding) by name; nothing when there is no cache, or one that is broken or of another model."""
    try:
        with np.load(cache, allow_pickle=False) as found:
            if str(found["model"]) != model:
                return {}
            rows = zip(found["names"].tolist(), found["stamps"].tolist(), found["embeddings"], strict=True)
            return {name: (at, z) for name, at, z in rows}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def write_cache(cache: Path, model: str, names: list[str], stamps: list[str], embeddings: np.ndarray) -> None:
    """Keeps the embeddings; where the cache cannot be written the next search embeds again."""
    buffer = io.BytesIO()
    fields = dict(names=np.asarray(names, dtype=str), stamps=np.asarray(stamps, dtype=str), embeddings=embeddings)
    np.savez(buffer, allow_pickle=False, model=np.asarray(model), **fields)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, buffer.getvalue())
    except OSError:
        return
