"""A GGUF file: its fields as plain values, its tensors dequantized one at a time."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from jvlm.core.errors import UserError, nearest

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
"""The tensor types that are read; F32 and F16 stay as they are, the others become float32."""


class GgufFile:
    """Random access to the fields and tensors of `path`.

    UserError for a file that is no GGUF, is cut off, or holds a tensor of a type that is not in `TYPES`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = GGUFReader(path)
        # What the reader runs into where the bytes end or make no sense.
        except (ValueError, OSError, IndexError, KeyError, OverflowError, MemoryError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as GGUF ({error}); copy it again") from None
        self.fields: Mapping[str, Any] = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        for name, tensor in self._tensors.items():
            kind = GGMLQuantizationType(tensor.tensor_type).name
            if kind not in TYPES:
                raise UserError(
                    f"{path}: the tensor {name!r} is {kind}, which jvlm does not read; {nearest(kind, TYPES)}"
                )

    def get(self, key: str, default: Any = None) -> Any:
        """A field as a plain value, or `default`."""
        return self.fields[key].contents() if key in self.fields else default

    def need(self, key: str) -> Any:
        """A field that must be there; UserError names it."""
        if key not in self.fields:
            raise UserError(f"{self.path} lacks the field {key!r}; is it a language model?")
        return self.get(key)

    def names(self) -> Iterable[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape with the contracted axis last, as torch has it."""
        return tuple(int(x) for x in reversed(self._tensors[name].shape))

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantized by the definition of its type."""
        tensor = self._tensors[name]
        if tensor.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            return np.asarray(tensor.data).reshape(self.shape(name))
        return dequantize(tensor.data, tensor.tensor_type).reshape(self.shape(name))
