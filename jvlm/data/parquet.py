"""Parquet files whose rows hold the pictures themselves (bytes, or Hugging Face's struct of bytes and path)."""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from jvlm.core.errors import UserError, nearest
from jvlm.data.sources import BadSample, Sample, captions_of, digest, file_fingerprint, find_files, label_of


class ParquetSource:
    """Rows of `paths` (a path, glob, folder or list; local or `gs://`); row groups are the unit of reading.

    `image_key` holds file bytes, captions are under `caption_keys`, integer labels under `label_key`.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        image_key: str = "image",
        caption_keys: Sequence[str] = ("caption", "captions", "text"),
        label_key: str = "label",
    ):
        self.files = find_files(paths, ".parquet")
        self.image_key, self.caption_keys, self.label_key = image_key, tuple(caption_keys), label_key
        groups, total = [], 0
        self._prepare()
        for number, path in enumerate(self.files):
            with path.open("rb") as stream:
                meta = _open(stream, str(path)).metadata
            names = meta.schema.to_arrow_schema().names
            if image_key not in names:
                raise UserError(f"{path}: no column {image_key!r}: {nearest(image_key, names)}")
            for group in range(meta.num_row_groups):
                groups.append((number, group, meta.row_group(group).num_rows))
                total += meta.row_group(group).total_byte_size
        self._groups = groups
        self._starts = np.cumsum([0, *(rows for _, _, rows in groups)])
        if not len(self):
            raise UserError(f"{self.files[0]}: the files hold no rows")
        self.sample_bytes = max(1, total // len(self))

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._rows = functools.lru_cache(maxsize=8)(self._load)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_rows", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def _load(self, number: int) -> list[dict[str, Any]]:
        file, group, _ = self._groups[number]
        with self.files[file].open("rb") as stream:
            return _open(stream, str(self.files[file])).read_row_group(group).to_pylist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        file, group, _ = self._groups[number]
        where = f"{self.files[file].name}:{index}"
        try:
            with self._lock:  # several threads want the same row group at once
                row = self._rows(number)[index - int(self._starts[number])]
        except OSError as error:
            raise BadSample(f"{where}: row group {group} is broken ({error})", "broken row group") from error
        image = row[self.image_key]
        image = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(image, bytes):
            raise BadSample(f"{where}: {self.image_key!r} holds no picture bytes", "missing picture")
        used = {self.image_key, self.label_key, *self.caption_keys}
        extra = {k: v for k, v in row.items() if k not in used}
        return Sample(image, captions_of(row, self.caption_keys), label_of(row.get(self.label_key)), where, extra)

    def fingerprint(self) -> str:
        """Changes with names and sizes of the files and with which columns are read."""
        names = [self.image_key, self.caption_keys, self.label_key]
        return digest("parquet", file_fingerprint(self.files), self._starts.tolist(), names)


def _open(stream: Any, name: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(stream)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{name}: not a Parquet file, or cut short ({error})") from error
