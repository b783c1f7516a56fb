"""TensorFlow Datasets through their `data_source`, which needs no TensorFlow."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jvlm.core.errors import UserError, nearest
from jvlm.data.sources import BadSample, Sample, digest, label_of


class TfdsSource:
    """A prepared dataset: `name` as TFDS spells it ("coco_captions:1.1.0"), `split`, under `data_dir`.

    `image_key`, `caption_keys` and `label_key` are paths into the example ("captions/text"). Pictures that TFDS has
    decoded are kept without loss (PNG). UserError when the dataset is not prepared: nothing is downloaded.
    """

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str | None = None,
        image_key: str = "image",
        caption_keys: Sequence[str] = ("caption", "captions", "captions/text", "text"),
        label_key: str = "label",
    ):
        self.name, self.split, self.data_dir = name, split, data_dir
        self.keys = (image_key, tuple(caption_keys), label_key)
        self._open()
        self.sample_bytes = self._mean_bytes()

    def _open(self) -> None:
        import tensorflow_datasets as tfds

        try:
            self._builder = tfds.builder(self.name, data_dir=self.data_dir)
            splits = self._builder.info.splits
            if self.split.partition("[")[0] not in splits:
                raise UserError(f"{self.name} has no split {self.split!r}: {nearest(self.split, splits)}")
            data: Any = self._builder.as_data_source  # its decorator hides the signature
            self._data = data(split=self.split)
        except UserError:
            raise
        except Exception as error:  # TFDS raises many kinds, some its own
            raise UserError(
                f"{self.name} is not prepared under {self.data_dir}: {str(error).strip().splitlines()[0]}"
            ) from error

    def _mean_bytes(self) -> int:
        info = self._builder.info.splits[self.split.partition("[")[0]]
        return max(1, int(info.num_bytes) // max(1, int(info.num_examples)))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_builder", "_data")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        example = self._data[index]
        return to_sample(example, f"{self.name}:{self.split}:{index}", *self.keys)

    def fingerprint(self) -> str:
        """Changes with the dataset's version, the split and which keys are read."""
        return digest("tfds", self._builder.info.full_name, self.split, len(self), self.keys)


def to_sample(example: Any, where: str, image_key: str, caption_keys: Sequence[str], label_key: str) -> Sample:
    """The sample of a TFDS example (a nested dict of arrays)."""
    image = _at(example, image_key)
    if isinstance(image, np.ndarray) and image.ndim == 3:
        out = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "PNG", compress_level=0)
        image = out.getvalue()
    if not isinstance(image, bytes):
        raise BadSample(f"{where}: no picture under {image_key!r}", "missing picture")
    captions: list[str] = []
    for key in caption_keys:
        value = _at(example, key)
        values = [value] if isinstance(value, (str, bytes)) else list(value) if _is_list(value) else []
        captions += [v.decode("utf-8", errors="replace") if isinstance(v, bytes) else str(v) for v in values]
    return Sample(image, list(dict.fromkeys(captions)), label_of(_at(example, label_key)), where)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _at(example: Any, path: str) -> Any:
    for part in path.split("/"):
        if not isinstance(example, dict) or part not in example:
            return None
        example = example[part]
    return example
