"""ArrayRecord files: our own records, or `tf.train.Example` as most pipelines write it (read without TensorFlow).

Our record is the magic, four bytes of length (little endian), that much JSON, then the picture's bytes.
"""

import hashlib
import importlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jvlm.core.errors import UserError
from jvlm.data.sources import BadSample, Sample, captions_of, digest, file_fingerprint, find_files, label_of

MAGIC = b"JVLM1\n"


class ArrayRecordSource:
    """Records of `paths` (a path, glob, folder or list).

    Keys of an Example: `image_key` (file bytes), `caption_keys`, `label_key`.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        image_key: str = "image",
        caption_keys: Sequence[str] = ("caption", "captions", "text"),
        label_key: str = "label",
    ):
        self.files = find_files(paths, ".array_record")
        self.keys = (image_key, tuple(caption_keys), label_key)
        self._open()
        if not len(self):
            raise UserError(f"{self.files[0]}: the files hold no records")
        self.sample_bytes = max(1, sum(f.stat().length for f in self.files) // len(self))

    def _open(self) -> None:
        from array_record.python import array_record_data_source

        try:
            self._records = array_record_data_source.ArrayRecordDataSource([str(f) for f in self.files])
            self._length = len(self._records)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.files[0]}: not ArrayRecord files ({error})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_records"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        try:
            record = self._records[index]
        except (RuntimeError, ValueError) as error:
            raise BadSample(f"record {index} is broken ({error})", "broken record") from error
        return decode(record, f"record {index}", *self.keys)

    def fingerprint(self) -> str:
        """Changes with names and sizes of the files, with three of the records and with which keys are read."""
        probes = [self._records[i] for i in (0, len(self) // 2, len(self) - 1)]  # sizes are padded to 64 kB
        hashes = [hashlib.sha256(record).hexdigest() for record in probes]
        return digest("array_record", file_fingerprint(self.files), hashes, self.keys)


def encode(sample: Sample) -> bytes:
    """Our record of `sample`."""
    head = {"captions": sample.captions, "label": sample.label, "key": sample.key, "extra": sample.extra}
    text = json.dumps(head, ensure_ascii=False).encode("utf-8")
    return MAGIC + struct.pack("<I", len(text)) + text + sample.image


def decode(record: bytes, where: str, image_key: str, caption_keys: Sequence[str], label_key: str) -> Sample:
    """The sample of one record of either kind; BadSample when it is neither."""
    try:
        if record.startswith(MAGIC):
            start = len(MAGIC) + 4
            end = start + struct.unpack("<I", record[len(MAGIC) : start])[0]
            head = json.loads(record[start:end])
            return Sample(record[end:], head["captions"], head["label"], head["key"], head["extra"])
        values = parse_example(record)
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise BadSample(f"{where}: not a record that can be read ({error})", "broken record") from error
    image = next(iter(values.get(image_key, [])), None)
    if not isinstance(image, bytes):
        raise BadSample(f"{where}: no picture bytes under {image_key!r}, only {sorted(values)}", "missing picture")
    texts = {k: [_text(v) for v in values.get(k, [])] for k in caption_keys}
    label = next(iter(values.get(label_key, [])), None)
    extra = {k: v for k, v in values.items() if k not in (image_key, label_key, *caption_keys)}
    return Sample(image, captions_of(texts, caption_keys), label_of(label), where, extra)


def write(path: str, samples: Iterable[Sample]) -> int:
    """Writes our records to `path`, one a group, so that each is read alone; how many."""
    module: Any = importlib.import_module("array_record.python.array_record_module")  # compiled, without types
    writer = module.ArrayRecordWriter(path, "group_size:1")
    count = 0
    try:
        for sample in samples:
            writer.write(encode(sample))
            count += 1
    finally:
        writer.close()
    return count


def _text(value: Any) -> Any:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def parse_example(data: bytes) -> Mapping[str, list[Any]]:
    """Features of a serialized `tf.train.Example`: lists of bytes, floats or ints by name (protobuf wire format)."""
    out: dict[str, list[Any]] = {}
    for _, features in _fields(data, {1}):
        for _, entry in _fields(features, {1}):
            pair = dict(_fields(entry, {1, 2}))
            out[pair[1].decode("utf-8")] = _values(pair.get(2, b""))
    if not out:
        raise ValueError("no features")
    return out


def _values(feature: bytes) -> list[Any]:
    out: list[Any] = []
    for kind, content in _fields(feature, {1, 2, 3}):
        for _, value in _fields(content, {1}):
            if kind == 1:
                out.append(value)
            elif kind == 2:
                out.extend(struct.unpack(f"<{len(value) // 4}f", value) if isinstance(value, bytes) else [value])
            elif isinstance(value, bytes):  # packed varints
                at = 0
                while at < len(value):
                    number, at = _varint(value, at)
                    out.append(number - 2**64 if number >= 2**63 else number)
            else:
                out.append(value - 2**64 if value >= 2**63 else value)
    return out


def _fields(data: bytes, wanted: set[int]) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value = struct.unpack("<d" if wire == 1 else "<f", data[at : at + size])[0]
            at += size
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise ValueError("cut short")
        if field in wanted:
            yield field, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    out = shift = 0
    while True:
        byte = data[at]
        out |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return out, at
        shift += 7
