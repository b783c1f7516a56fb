"""Where each sample lies in a tar shard: found by reading headers only, kept beside the shard.

The index is two lines of JSON: what it describes (version, the shard's size, counts), then the samples.
"""

import dataclasses
import json
import tarfile
from typing import IO, Any

from etils import epath

from jvlm.core.errors import UserError

VERSION = 1
SUFFIX = ".index"
BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Entry:
    """One sample: its `key` and the (offset, size) of each member by extension; `bad` says why it is unusable."""

    key: str
    members: dict[str, tuple[int, int]]
    bad: str = ""


def split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the file name, the extension is the rest."""
    folder, _, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return f"{folder}/{key}" if folder else key, extension.lower()


def scan(path: epath.Path) -> list[Entry]:
    """The samples of a shard, from its headers. A shard that ends early ends in one entry that is `bad`.

    UserError for what is not an uncompressed tar.
    """
    size = path.stat().length
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    key, cut = "", ""
    with path.open("rb") as file, _open(file, path) as tar:
        try:
            while not cut and (member := tar.next()) is not None:
                if not member.isreg():
                    continue
                key, extension = split_name(member.name)
                members = samples.setdefault(key, {})
                if member.offset_data + member.size > size:
                    cut = f"{path.name} ends early, inside {member.name}"
                else:
                    members[extension] = (member.offset_data, member.size)
        except (tarfile.ReadError, EOFError) as error:
            cut = f"{path.name} ends early ({error})"
        if not cut:  # tarfile takes whatever it cannot parse for the end
            file.seek(tar.offset)
            end = file.read(BLOCK)
            if len(end) < BLOCK or any(end):
                what = "is garbled" if end else "ends without its end marker"
                cut = f"{path.name} {what} at byte {tar.offset}"
    entries = [Entry(k, members) for k, members in samples.items()]
    if not cut:
        return entries
    # The last sample is incomplete unless it has all that the first has; then what is missing came after it.
    if len(entries) == 1 or (entries and not set(entries[0].members) <= set(entries[-1].members)):
        return [*entries[:-1], dataclasses.replace(entries[-1], bad=cut)]
    return [*entries, Entry(f"after {key}" if key else "start", {}, bad=cut)]


def _open(file: IO[bytes], path: epath.Path) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except tarfile.ReadError as error:
        raise UserError(
            f"{path}: not a tar that can be read by offset ({error}); repack it with jvlm data pack"
        ) from error


def to_text(entries: list[Entry], size: int) -> str:
    """The index file of a shard of `size` bytes."""
    total = sum(n for entry in entries for _, n in entry.members.values())
    head = {"version": VERSION, "size": size, "count": len(entries), "bytes": total}
    body = [[e.key, e.members, e.bad] if e.bad else [e.key, e.members] for e in entries]
    return json.dumps(head) + "\n" + json.dumps(body, separators=(",", ":")) + "\n"


def index_path(shard: epath.Path, folder: epath.Path | None) -> epath.Path:
    """Where the index of `shard` is kept: beside it, or in `folder`."""
    return (folder or shard.parent) / (shard.name + SUFFIX)


def read_head(path: epath.Path, size: int) -> dict[str, Any] | None:
    """The first line of an index, or None when it is missing, broken, or describes another shard."""
    try:
        with path.open("r") as file:
            head = json.loads(file.readline())
    except (FileNotFoundError, ValueError, OSError):
        return None
    good = isinstance(head, dict) and head.get("version") == VERSION and head.get("size") == size
    return head if good else None


def read_entries(path: epath.Path) -> list[Entry]:
    """The samples of an index."""
    body = json.loads(path.read_text().split("\n", 1)[1])
    return [Entry(row[0], {k: (v[0], v[1]) for k, v in row[1].items()}, row[2] if len(row) > 2 else "") for row in body]


def write_index(shard: epath.Path, folder: epath.Path | None = None) -> list[Entry] | None:
    """Scans `shard` and writes its index; the entries where the folder cannot be written, so they are not lost."""
    entries = scan(shard)
    target = index_path(shard, folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.partial"
        partial.write_text(to_text(entries, shard.stat().length))
        partial.replace(target)
    except (PermissionError, OSError):
        return entries
    return None
