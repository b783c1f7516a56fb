"""WebDataset tar shards in img2dataset's layout (picture + txt and json), read by offset, never extracted."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jvlm.core.errors import UserError
from jvlm.data import tar_index
from jvlm.data.byte_ranges import RangeReader
from jvlm.data.sources import BadSample, Sample, captions_of, digest, find_files, label_of

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "npy")
"""Members that a sample's `image` is taken from; `npy` holds what an autoencoder made of it."""


class TarSource:
    """Shards of `paths` (a path, glob, folder or list; local or `gs://`), samples in the order they lie in.

    Captions come from `.txt` and from `caption_keys` of `.json` (strings or lists), labels from `.cls` or
    `json["label"]`, the rest of the json is `extra`. A member index is kept beside each shard, or in `index_dir` when
    that is not writable; it is rebuilt when the shard's size has changed. UserError when no shard is found.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        caption_keys: Sequence[str] = ("caption", "captions", "text"),
        index_dir: str | None = None,
    ):
        self.shards = find_files(paths, ".tar")
        self.caption_keys = tuple(caption_keys)
        self._folder = epath.Path(index_dir) if index_dir else None
        self._unsaved: dict[int, list[tar_index.Entry]] = {}
        heads = [self._head(i) for i in range(len(self.shards))]
        self._starts = np.cumsum([0, *(h["count"] for h in heads)])
        self._sizes = [(h["size"], h["bytes"]) for h in heads]  # tar pads its size, the members give it away
        if not len(self):
            raise UserError(f"{self.shards[0]}: the shards hold no samples")
        self.sample_bytes = max(1, sum(h["bytes"] for h in heads) // len(self))
        self._prepare()

    def _prepare(self) -> None:
        self._entries = functools.lru_cache(maxsize=256)(self._load_entries)
        self._reader = RangeReader([str(s) for s in self.shards])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_entries", "_reader")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def _head(self, shard: int) -> dict[str, Any]:
        path = self.shards[shard]
        size = path.stat().length
        target = tar_index.index_path(path, self._folder)
        head = tar_index.read_head(target, size)
        if head is None:
            entries = tar_index.write_index(path, self._folder)
            if entries is not None:
                self._unsaved[shard] = entries
                return json.loads(tar_index.to_text(entries, size).split("\n", 1)[0])
            head = tar_index.read_head(target, size)
        if head is None:
            raise UserError(f"{target}: the index cannot be read back; remove it and try again")
        return head

    def _load_entries(self, shard: int) -> list[tar_index.Entry]:
        if shard in self._unsaved:
            return self._unsaved[shard]
        return tar_index.read_entries(tar_index.index_path(self.shards[shard], self._folder))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample:
        shard, entry, where, picture = self._find(index)
        parts = {name: entry.members[name] for name in ("json", "txt", "cls", picture) if name in entry.members}
        read = {name: self._reader.read(shard, *part) for name, part in parts.items()}
        try:
            extra = json.loads(read["json"]) if "json" in read else {}
            captions = [read["txt"].decode("utf-8").strip()] if "txt" in read else []
            label = label_of(read["cls"]) if "cls" in read else label_of(extra.get("label"))
        except (ValueError, AttributeError) as error:
            raise BadSample(f"{where}: broken text or json ({error})", "broken text") from error
        captions = list(dict.fromkeys(captions + captions_of(extra, self.caption_keys)))
        return Sample(read[picture], captions, label, where, extra)

    def head(self, index: int, size: int) -> bytes:
        """The first `size` bytes of a sample's picture, all of a shorter one; BadSample when there is none."""
        shard, entry, _, picture = self._find(index)
        offset, whole = entry.members[picture]
        return self._reader.read(shard, offset, min(size, whole))

    def _find(self, index: int) -> tuple[int, tar_index.Entry, str, str]:
        """(shard, entry, where that is, extension of the picture) of a sample; BadSample when it cannot be used."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        entry = self._entries(shard)[index - int(self._starts[shard])]
        where = f"{self.shards[shard].name}:{entry.key}"
        if entry.bad:
            raise BadSample(f"{where}: {entry.bad}", "truncated tar")
        picture = next((e for e in PICTURES if e in entry.members), None)
        if picture is None:
            raise BadSample(f"{where}: no picture among its members {sorted(entry.members)}", "missing picture")
        return shard, entry, where, picture

    def fingerprint(self) -> str:
        """Changes with names, sizes and order of the shards and with how captions are found."""
        names = [s.name for s in self.shards]
        return digest("tar", names, self._sizes, self._starts.tolist(), self.caption_keys)
