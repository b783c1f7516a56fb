"""Small files written whole: a reader sees the old content or the new one, whenever the writer dies.

Paths go through `etils.epath`, so that `gs://` works like a local folder. Call these from one process of a
run: the names of temporary files do not collide between hosts, but the last writer wins.
"""

import json
import math
import os
import uuid
from typing import Any

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
    """`path` from the root on, which Orbax insists upon; an address such as `gs://` stays as it is."""
    path = epath.Path(path)
    return path if "://" in os.fspath(path) else path.resolve()


def write_atomic(path: epath.PathLike, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) to `path` and replaces what was there in one move."""
    path = epath.Path(path)
    raw = data.encode() if isinstance(data, str) else data
    if "://" in os.fspath(path):
        path.write_bytes(raw)  # an object appears whole, once its upload is complete
        return
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN and infinities become null: not all readers know them.

    Raises TypeError for what JSON cannot hold; numpy and jax scalars are fine.
    """
    write_atomic(path, json.dumps(_finite(value), indent=1, default=plain, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """A numpy or jax scalar as the Python number it is: the `default` of `json.dumps`."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"a {type(value).__name__} does not fit into JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):
        value = plain(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
