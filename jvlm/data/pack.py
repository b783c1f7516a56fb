"""Any source to tar shards with their indexes; shards that exist are never overwritten."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from jvlm.core.errors import UserError
from jvlm.data import tar_index
from jvlm.data.sources import BadSample, Sample, Source, find_files

KINDS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp",
         b"\x93NUMPY": "npy"}  # fmt: skip


def pack(
    source: Source, folder: str, shard_bytes: int = 256 * 2**20, test: Callable[[Sample, int], Any] | None = None
) -> dict[str, Any]:
    """Writes `source` to `folder` as `00000.tar`, ... of about `shard_bytes`, at least a sample, each with its index.

    Samples that cannot be read, or for which `test` raises BadSample, are left out and counted by cause. UserError when
    a shard is already there.
    """
    return pack_parts([("", source)], folder, shard_bytes, test)


def pack_parts(
    parts: Iterable[tuple[str, Source]],
    folder: str,
    shard_bytes: int = 256 * 2**20,
    test: Callable[[Sample, int], Any] | None = None,
) -> dict[str, Any]:
    """`pack` of several sources into shards of their own, each named by what stands before it."""
    target = epath.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if existing := sorted(target.glob("*.tar")):
        raise UserError(f"{existing[0]} exists already: pack into an empty folder")
    skipped: dict[str, int] = {}
    shards = written = 0
    for name, source in parts:
        samples = _good(source, test, skipped)
        pending = next(samples, None)
        while pending is not None:
            path = target / f"{name}{shards:05d}.tar"
            partial = target / f".{path.name}.partial"
            size = 0
            with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
                while pending is not None and (size == 0 or size < shard_bytes):
                    size += _write(tar, f"{written:09d}", pending)
                    written += 1
                    pending = next(samples, None)
            partial.rename(path)
            tar_index.write_index(path)
            shards += 1
    return {"shards": shards, "samples": written, "skipped": dict(sorted(skipped.items())), "folder": str(target)}


def index(paths: list[str], index_dir: str | None = None) -> dict[str, Any]:
    """Writes the index of each shard anew; how many samples each holds and which end early."""
    counts, truncated = {}, []
    for shard in find_files(paths, ".tar"):
        unsaved = tar_index.write_index(shard, epath.Path(index_dir) if index_dir else None)
        if unsaved is not None:
            raise UserError(f"{shard.parent}: the index cannot be written there; name a folder with --index-dir")
        entries = tar_index.read_entries(tar_index.index_path(shard, epath.Path(index_dir) if index_dir else None))
        bad = [e for e in entries if e.bad]
        counts[shard.name] = len(entries) - len(bad)
        truncated += [e.bad for e in bad]
    return {"shards": len(counts), "samples": sum(counts.values()), "truncated": truncated}


def _good(source: Source, test: Callable[[Sample, int], Any] | None, skipped: dict[str, int]) -> Iterator[Sample]:
    for i in range(len(source)):
        try:
            sample = source[i]
            if test:
                test(sample, i)
        except BadSample as error:
            skipped[error.cause] = skipped.get(error.cause, 0) + 1
        else:
            yield sample


def _write(tar: tarfile.TarFile, key: str, sample: Sample) -> int:
    kind = next((k for magic, k in KINDS.items() if sample.image.startswith(magic)), "tif")
    values: dict[str, Any] = {**sample.extra, "captions": sample.captions}
    if sample.label is not None:
        values["label"] = sample.label
    if sample.key:
        values.setdefault("key", sample.key)
    text = json.dumps(values, ensure_ascii=False, default=str).encode("utf-8")
    size = 0
    for extension, data in ((kind, sample.image), ("json", text)):
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        size += len(data)
    return size
