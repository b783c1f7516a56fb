"""What every dataset is: samples by number, whatever the format they lie in."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Int

from jvlm.core.errors import UserError


class Sample(NamedTuple):
    """One picture (the file's bytes) with its captions; `extra` is what else the format holds about it.

    `weight` is what it counts for in the loss.
    """

    image: bytes
    captions: list[str]
    label: int | None = None
    key: str = ""
    extra: Mapping[str, Any] = {}
    weight: float = 1.0


class BadSample(UserError):
    """A sample that cannot be used; `cause` is the counter it belongs to."""

    def __init__(self, message: str, cause: str):
        super().__init__(message)
        self.cause = cause

    def __reduce__(self):
        return type(self), (str(self), self.cause)


@runtime_checkable
class Source(Protocol):
    """Random access to samples. `sample_bytes` is their mean size in storage, which sizes the shuffle's blocks."""

    sample_bytes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample; BadSample when it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """Changes when the samples or their order do."""
        ...


def head(source: Source, index: int, size: int) -> bytes:
    """The first `size` bytes of a sample's picture where the source can read so little (`head`), else the picture.

    BadSample when it cannot be read.
    """
    own = getattr(source, "head", None)
    return source[index].image if own is None else own(index, size)


class Subset:
    """Some samples (or conversations) of a source, in the order given."""

    def __init__(self, source: Source, indices: Sequence[int] | Int[np.ndarray, "n"]):
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.sample_bytes = source.sample_bytes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.source[int(self.indices[index])]

    def head(self, index: int, size: int) -> bytes:
        """The beginning of a picture: see `head`."""
        return head(self.source, int(self.indices[index]), size)

    def fingerprint(self) -> str:
        """Changes with the source and with the selection."""
        return digest(self.source.fingerprint(), self.indices.tobytes().hex())


def digest(*parts: Any) -> str:
    """sha256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_files(paths: str | Sequence[str], suffix: str) -> list[epath.Path]:
    """Files from a path, a glob, a folder (its files ending in `suffix`) or a list of these, sorted within each.

    Local or `gs://`. UserError for one that matches nothing.
    """
    found: list[epath.Path] = []
    for text in [paths] if isinstance(paths, str) else paths:
        path = epath.Path(text)
        if any(c in path.name for c in "*?["):
            matches = sorted(path.parent.glob(path.name))
        else:
            matches = sorted(path.glob("*" + suffix)) if path.is_dir() else [path] * path.exists()
        if not matches:
            raise UserError(f"{text}: no such file, and no {suffix} files match; check the path")
        found.extend(matches)
    return found


def file_fingerprint(paths: Sequence[epath.Path]) -> str:
    """Names and sizes of files: cheap, and changes when a shard is replaced by one of another size."""
    return digest([[p.name, p.stat().length] for p in paths])


def captions_of(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Captions under the first of `keys`, a string or a list of strings each; repeated ones once."""
    out: list[str] = []
    for key in keys:
        value = values.get(key)
        several = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        out.extend(v for v in several if isinstance(v, str))
    return list(dict.fromkeys(out))


def label_of(value: Any) -> int | None:
    """An integer label, or none."""
    try:
        return None if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return None
