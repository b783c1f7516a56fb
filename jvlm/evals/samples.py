"""What evaluators read: a source's samples, chosen by key, pictures fetched only when they are decoded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from jvlm.core import build
from jvlm.core.errors import UserError, nearest
from jvlm.data import DATASETS
from jvlm.data.sources import Source

T = TypeVar("T")
Data = Mapping[str, Any] | Source
"""`{"name": a key of DATASETS, **fields}`, or a source itself."""


def open_data(data: Data) -> Source:
    """The source that a configuration names. ConfigError for an unknown name or field."""
    if not isinstance(data, Mapping):
        return data
    fields = dict(data)
    name = fields.pop("name", "?")
    return build.call(build.lookup(DATASETS, name, "dataset"), fields, f"dataset {name!r}")


class Pictures(Sequence[bytes]):
    """File bytes of some samples of a source, read when asked for; `keys` name them."""

    def __init__(self, source: Source, at: Sequence[int], keys: Sequence[str]) -> None:
        self._source, self._at, self.keys = source, at, keys

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Pictures(self._source, self._at[index], self.keys[index])
        return self._source[self._at[index]].image


@dataclass(frozen=True)
class Samples:
    """Chosen samples of a source; everything but the pictures is in memory."""

    source: Source
    at: tuple[int, ...]
    keys: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    given_labels: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def pictures(self) -> Pictures:
        return Pictures(self.source, self.at, self.keys)

    @cached_property
    def labels(self) -> np.ndarray:
        """Integer labels [n]; UserError where a sample has none."""
        for key, label in zip(self.keys, self.given_labels):
            if label is None:
                raise UserError(f"sample {key!r} has no label; this evaluation needs one for every sample")
        return np.asarray(self.given_labels, np.int64)

    def take(self, indices: Iterable[Any]) -> "Samples":
        chosen = [int(i) for i in indices]

        def of(field: tuple[T, ...]) -> tuple[T, ...]:
            return tuple(field[i] for i in chosen)

        return Samples(self.source, of(self.at), of(self.keys), of(self.captions), of(self.given_labels))


def read_samples(data: Data, keys: Sequence[str] | None = None) -> Samples:
    """All samples of `data`, or those with `keys`, in their order. UserError names a key or sample that fails."""
    source = open_data(data)
    found, captions, labels = [], [], []
    for at in range(len(source)):
        sample = source[at]
        found.append(str(sample.key))
        captions.append(tuple(sample.captions))
        labels.append(None if sample.label is None else int(sample.label))
    samples = Samples(source, tuple(range(len(found))), tuple(found), tuple(captions), tuple(labels))
    if keys is None:
        return samples
    where = {key: at for at, key in enumerate(found)}
    # A shard's samples are called shard:key; the key alone will do where it is the only one.
    short: dict[str, list[int]] = {}
    for at, key in enumerate(found):
        short.setdefault(key.rpartition(":")[2], []).append(at)
    chosen = []
    for key in keys:
        at = [where[key]] if key in where else short.get(key, [])
        if len(at) != 1:
            problem = f"; {nearest(key, short)}" if not at else f": {len(at)} samples are called so"
            raise UserError(f"the data has no single sample {key!r}{problem}")
        chosen += at
    return samples.take(chosen)


def evenly(count: int, limit: int) -> np.ndarray:
    """At most `limit` of `count` places, evenly spaced, ascending."""
    return np.arange(count) if count <= limit else np.linspace(0, count - 1, limit).round().astype(int)
