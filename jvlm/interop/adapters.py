"""Adapters of any published format: which one a path holds, and how it is read and written."""

from pathlib import Path

from jvlm.core.errors import UserError
from jvlm.interop import peft, peft_write
from jvlm.interop.diffusers import embeddings, lora
from jvlm.interop.diffusers.parts import FAMILY, joined, parts
from jvlm.interop.pretrained import Pretrained


def load(path: Path, base: Pretrained, name: str = "default") -> Pretrained:
    """`base` with the adapter in `path` on it, called `name`.

    That is a PEFT directory; for a text-to-image model also a folder with one for each part, a LoRA file of diffusers
    or kohya, a learned word, or the folder of such a file. UserError says what is missing or does not fit.
    """
    if path.is_file():
        return (embeddings if embeddings.holds(path) else lora).load(path, base, name)
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give a PEFT directory or a LoRA file")
    if (path / lora.FILE).is_file():
        return lora.load(path / lora.FILE, base, name)
    if (word := path / embeddings.FILES["text_encoder"]).is_file():
        return embeddings.load(word, base, name)
    if base.config["family"] != FAMILY:
        if not (path / peft.CONFIG).is_file():
            raise UserError(f"{path} has no {peft.CONFIG}, so it is no PEFT directory; give one")
        return peft.load(path, base, name)
    known = parts(base)
    found = {folder: path / folder for folder in known if (path / folder / peft.CONFIG).is_file()}
    if not found:
        found = {_part_of(path, known): path}
    return joined(base, {folder: peft.load(where, known[folder], name) for folder, where in found.items()})


def _part_of(path: Path, known: dict[str, Pretrained]) -> str:
    """The part whose modules a PEFT directory names: the UNet, unless it is another's."""
    return next((folder for folder, part in known.items() if peft.names_modules_of(path, part)), "unet")


def save_peft(pretrained: Pretrained, path: Path) -> None:
    """Writes the one adapter of a model: as a PEFT directory, of a text-to-image model one for each part."""
    write = lora.save_peft if pretrained.config["family"] == FAMILY else peft_write.save
    write(pretrained, path)
