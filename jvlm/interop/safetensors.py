"""Safetensors directories: read tensor by tensor or slice by slice, written in shards of bounded size."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from jvlm.core.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2_000_000_000


class SafetensorsReader:
    """Random access to the tensors of a directory: one file, or shards with an index.

    `renames` are pairs (regular expression, replacement), applied in turn to every name. Raises UserError for a
    missing, truncated or unindexed file. `metadata` are the headers' own words.
    """

    def __init__(self, directory: Path, single: str = SINGLE, renames: Sequence[tuple[str, str]] = ()) -> None:
        self._where: dict[str, tuple[Any, str]] = {}
        self.metadata: dict[str, str] = {}
        for path in _files(directory, single):
            try:
                handle = safetensors.safe_open(path, framework="numpy")
            except (safetensors.SafetensorError, OSError) as error:
                raise UserError(f"{path} cannot be read as safetensors ({error}); copy it again") from None
            self.metadata |= handle.metadata() or {}
            inside = handle.keys()
            for stored in inside:
                name = stored
                for old, new in renames:
                    name = re.sub(old, new, name)
                self._where[name] = (handle, stored)

    def names(self) -> Iterable[str]:
        return self._where.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        handle, stored = self._where[name]
        return tuple(handle.get_slice(stored).get_shape())

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        handle, stored = self._where[name]
        if not index:
            return handle.get_tensor(stored)
        return handle.get_slice(stored)[index]


def _files(directory: Path, single: str) -> list[Path]:
    if (directory / single).is_file():
        return [directory / single]
    index = directory / (single + ".index.json")
    if not index.is_file():
        raise UserError(f"{directory} has neither {single} nor {index.name}; pickled weights are not read")
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise UserError(f"{index} names {name!r}, which is not a file in {directory}; copy it again")
    return [directory / name for name in names]


def write(
    directory: Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    single: str = SINGLE,
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> list[str]:
    """Writes named tensors below `directory`, one file or shards with an index as transformers names them.

    What `metadata` says stands in the header. Holds one shard in memory. Returns the file names written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stem = single.removesuffix(".safetensors")
    weight_map: dict[str, int] = {}
    total = 0
    count = 0
    for count, shard in enumerate(_shards(tensors, shard_bytes), 1):
        total += sum(tensor.nbytes for tensor in shard.values())
        weight_map |= dict.fromkeys(shard, count)
        part = directory / f"{stem}.{count}.part"
        save_file(shard, part, metadata={"format": "pt", **(metadata or {})})
        part.chmod(0o644)  # safetensors writes for the owner alone
    if count == 1:
        (directory / f"{stem}.1.part").replace(directory / single)
        return [single]
    files = {k: f"{stem}-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)}
    for k, name in files.items():
        (directory / f"{stem}.{k}.part").replace(directory / name)
    index = dict(metadata=dict(total_size=total), weight_map={name: files[k] for name, k in weight_map.items()})
    (directory / f"{single}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return [*files.values(), f"{single}.index.json"]


def _shards(tensors: Iterable[tuple[str, np.ndarray]], limit: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard
