"""The ways to write a kernel in few bits, by name."""

from typing import Any, Protocol, runtime_checkable

from jvlm.transforms.codes_int import Integers
from jvlm.transforms.codes_nf4 import NormalFloat4


@runtime_checkable
class Scheme(Protocol):
    """A code for each entry, a scale and perhaps a zero for each group: entry = decode(code, zero) scale.

    `blocks` and `codes` are split into groups (`groups.split_groups`); `scale` and `zero` have one value a group.
    """

    @property
    def bits(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    def fit(self, blocks: Any, axis: int) -> tuple[Any, Any]: ...
    def encode(self, blocks: Any, scale: Any, zero: Any, axis: int) -> Any: ...
    def decode(self, codes: Any, zero: Any, axis: int) -> Any: ...


SCHEMES: dict[str, Scheme] = {
    "int4": Integers(4),
    "int4_asym": Integers(4, symmetric=False),
    "int8": Integers(8),
    "int8_asym": Integers(8, symmetric=False),
    "nf4": NormalFloat4(),
}
