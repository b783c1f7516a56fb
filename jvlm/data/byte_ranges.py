"""Reading ranges of files from many threads: local files by offset, remote ones in runs that are kept."""

import collections
import os
import threading
from collections.abc import Sequence

from etils import epath

CHUNK = 8 * 2**20


class RangeReader:
    """Ranges of the files `paths`, opened on first use in each process.

    Remote files are fetched in aligned runs of `CHUNK` bytes, the last `chunks` of which are kept, because the shuffle
    draws its samples from a window of neighbouring blocks. Raises EOFError when a range is not all there.
    """

    def __init__(self, paths: Sequence[str], chunks: int = 32):
        self.paths = list(paths)
        self.chunks = chunks
        self._files: dict[int, int] = {}
        self._cache: collections.OrderedDict[tuple[int, int], bytes] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __reduce__(self):
        return type(self), (self.paths, self.chunks)

    def __del__(self):
        if self._pid == os.getpid():
            for descriptor in self._files.values():
                os.close(descriptor)

    def read(self, file: int, offset: int, size: int) -> bytes:
        """`size` bytes of file number `file` from `offset` on."""
        data = (self._remote if "://" in self.paths[file] else self._local)(file, offset, size)
        if len(data) != size:
            raise EOFError(f"{self.paths[file]}: {len(data)} of {size} bytes at {offset}")
        return data

    def _local(self, file: int, offset: int, size: int) -> bytes:
        descriptor = self._files.get(file)
        if descriptor is None:
            with self._lock:
                if file not in self._files:
                    self._files[file] = os.open(self.paths[file], os.O_RDONLY)
                descriptor = self._files[file]
        return os.pread(descriptor, size, offset)

    def _remote(self, file: int, offset: int, size: int) -> bytes:
        first, last = offset // CHUNK, (offset + size - 1) // CHUNK
        data = b"".join(self._chunk(file, number) for number in range(first, last + 1))
        return data[offset - first * CHUNK :][:size]

    def _chunk(self, file: int, number: int) -> bytes:
        with self._lock:
            if (data := self._cache.get((file, number))) is not None:
                self._cache.move_to_end((file, number))
                return data
        with epath.Path(self.paths[file]).open("rb") as stream:
            stream.seek(number * CHUNK)
            data = stream.read(CHUNK)
        with self._lock:
            self._cache[file, number] = data
            while len(self._cache) > self.chunks:
                self._cache.popitem(last=False)
        return data
