"""JSONL or CSV tables beside a folder of pictures."""

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jvlm.core.errors import UserError, nearest
from jvlm.data.sources import BadSample, Sample, captions_of, digest, label_of

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class TableSource:
    """Rows of `path` (`.jsonl`, `.csv`, `.tsv`): `image_key` names a file under `images` (by default the
    table's folder).

    Captions are under `caption_keys` (strings, or lists in JSONL), integer labels under `label_key`. UserError for
    missing columns, and for pictures that are URLs or lie outside the folder.
    """

    def __init__(
        self,
        path: str,
        images: str | None = None,
        image_key: str = "image",
        caption_keys: Sequence[str] = ("caption", "captions", "text"),
        label_key: str = "label",
    ):
        self.path = epath.Path(path)
        self.folder = epath.Path(images) if images else self.path.parent
        self.rows = read_table(self.path)
        self.image_key, self.caption_keys, self.label_key = image_key, tuple(caption_keys), label_key
        for number, row in enumerate(self.rows):
            if not isinstance(row.get(image_key), str):
                hint = nearest(image_key, row)
                raise UserError(f"{self.path}: row {number + 1} has no {image_key!r} naming a picture: {hint}")
            name = row[image_key]
            if "://" in name or name.startswith("/") or ".." in name.split("/"):
                raise UserError(f"{self.path}: row {number + 1}: {name!r} is not a file under {self.folder}")
        first = next((p for p in (self.folder / r[image_key] for r in self.rows[:8]) if p.exists()), None)
        self.sample_bytes = max(1, first.stat().length if first else 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        name = row[self.image_key]
        try:
            image = (self.folder / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BadSample(f"{self.path.name}:{index + 1}: no picture {name}", "missing picture") from error
        used = {self.image_key, self.label_key, *self.caption_keys}
        extra = {k: v for k, v in row.items() if k not in used}
        return Sample(image, captions_of(row, self.caption_keys), label_of(row.get(self.label_key)), name, extra)

    def fingerprint(self) -> str:
        """Changes with the table's rows and with which columns are read."""
        return digest("table", self.rows, self.image_key, self.caption_keys, self.label_key)


def read_table(path: epath.Path) -> list[Mapping[str, Any]]:
    """Rows of a JSONL, CSV or TSV file; UserError names the first line that is broken."""
    try:
        text = path.read_text()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such table") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from error
    if path.suffix in (".csv", ".tsv"):
        lines = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
        rows: list[Mapping[str, Any]] = list(lines)
    elif path.suffix in (".jsonl", ".ndjson"):
        rows = [_json(path, n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        raise UserError(f"{path}: unknown kind of table; use .jsonl, .csv or .tsv")
    if not rows:
        raise UserError(f"{path}: the table has no rows")
    return rows


def _json(path: epath.Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}: line {number} is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}: line {number} is not a JSON object")
    return row
