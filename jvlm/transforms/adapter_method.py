"""What every way to adapt a model has: which kernels get a leaf, what is trained beside them."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jvlm.core.errors import ConfigError
from jvlm.core.tree import select
from jvlm.transforms.adapter_leaf import Adapter

Patterns = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Method(abc.ABC):
    """What every kind has: `targets`, patterns over the paths of kernels and tables (default: the kind's own).

    `train` are patterns of parameters that are trained themselves, such as a new head; `bias` is `none`, `all` or
    `targets` (only of the layers that are targeted). `name` tells adapters of one model apart.
    """

    name: str = "default"
    targets: Patterns | None = None
    train: Patterns = ()
    bias: str = "none"

    TARGETS: ClassVar[Patterns] = ()  # of this kind, when a configuration names none
    MERGES: ClassVar[bool] = True  # whether a plain model can be made of the base and the adapter

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        """Paths of the kernels in flat `params` that get a leaf. ConfigError for a pattern without a match, and for one
        that matches what is no kernel.
        """
        paths = select(params, self.TARGETS if self.targets is None else self.targets)
        for path in paths:
            if path.rpartition("/")[2] not in ("kernel", "embedding"):
                raise ConfigError(f"adapter target {path!r} is neither a kernel nor an embedding; end its pattern so")
        return paths

    def trained(self, params: Mapping[str, Any]) -> list[str]:
        """Paths in flat `params` that are trained as they are, besides the adapters."""
        patterns = list(self.train)
        if self.bias == "all":
            patterns.append("*bias")
        elif self.bias == "targets":
            patterns += [p for path in self.chosen(params) if (p := path.rpartition("/")[0] + "/bias") in params]
        elif self.bias != "none":
            raise ConfigError(f"adapter.bias {self.bias!r} is unknown; valid names: none, all, targets")
        return select(params, patterns)

    @abc.abstractmethod
    def leaf(self, path: str, base: Any, key: jax.Array) -> Any:
        """What takes the place of `base` at a chosen path: an adapter over it, initialized from `key`."""


def names_at(base: Any) -> list[str]:
    """Names of the adapters of one kernel, the innermost first."""
    return [*names_at(base.base), base.name] if isinstance(base, Adapter) else []


def layers_of(path: str) -> int:
    """How many leading layer axes the parameter at `path` has."""
    return f"/{path}".count("/layers/")
