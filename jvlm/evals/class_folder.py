"""Pictures sorted into folders by class: `DIR/<class>/...`, labels in the order of the sorted class names."""

from pathlib import Path

from jvlm.core.errors import UserError
from jvlm.data.sources import Sample, digest

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def picture_files(folder: Path) -> list[Path]:
    """Picture files anywhere below `folder`, sorted; hidden ones are left out. UserError when there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise UserError(f"{folder}: no pictures ({', '.join(PICTURES)}) in it")
    return files


class ClassFolder:
    """A source of labelled pictures; a sample's caption is its class's name with underscores as spaces."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._files = [path for path in picture_files(self._folder) if path.parent != self._folder]
        if not self._files:
            raise UserError(f"{folder}: no class folders; expected {folder}/CLASS/PICTURE")
        names = [path.relative_to(self._folder).parts[0] for path in self._files]
        folders = sorted(set(names))
        self.classes = tuple(name.replace("_", " ") for name in folders)
        self._labels = [folders.index(name) for name in names]
        self.sample_bytes = max(1, sum(path.stat().st_size for path in self._files) // len(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self._files[index], self._labels[index]
        return Sample(path.read_bytes(), [self.classes[label]], label, str(path.relative_to(self._folder)))

    def fingerprint(self) -> str:
        return digest("class_folder", [[str(p.relative_to(self._folder)), p.stat().st_size] for p in self._files])
