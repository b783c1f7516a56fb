"""A folder of pictures, each with a `.txt` or `.json` of the same name beside it."""

import json
from collections.abc import Iterator

from etils import epath

from jvlm.core.errors import UserError
from jvlm.data.sources import BadSample, Sample, captions_of, digest, label_of
from jvlm.data.tables import PICTURES


class FolderSource:
    """Pictures under `path`, at any depth, sorted by name. Captions as in `tar.TarSource`."""

    def __init__(self, path: str, caption_keys: tuple[str, ...] = ("caption", "captions", "text")):
        self.folder = epath.Path(path)
        if not self.folder.is_dir():
            raise UserError(f"{path}: no such folder")
        self.files = [p for p in _walk(self.folder) if p.suffix.lower() in PICTURES]
        if not self.files:
            raise UserError(f"{path}: no pictures in it ({', '.join(PICTURES)})")
        self.caption_keys = caption_keys
        self._sizes = [p.stat().length for p in self.files]
        self.sample_bytes = max(1, sum(self._sizes) // len(self.files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        key = str(path.relative_to(self.folder).with_suffix(""))
        try:
            text, values = path.with_suffix(".txt"), path.with_suffix(".json")
            captions = [text.read_text().strip()] if text.exists() else []
            extra = json.loads(values.read_text()) if values.exists() else {}
            captions = list(dict.fromkeys(captions + captions_of(extra, self.caption_keys)))
            return Sample(path.read_bytes(), captions, label_of(extra.get("label")), key, extra)
        except (ValueError, AttributeError) as error:
            raise BadSample(f"{path}: broken text or json beside it ({error})", "broken text") from error

    def fingerprint(self) -> str:
        """Changes with names and sizes of the pictures."""
        names = [str(p.relative_to(self.folder)) for p in self.files]
        return digest("folder", names, self._sizes, self.caption_keys)


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
