"""Several sources as one, drawn in fixed proportions, by position like everything else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jvlm.core.errors import ConfigError
from jvlm.data.shuffle import Order, Place
from jvlm.data.sources import Source, digest, head

CYCLE = 1000


class Mixture:
    """`sources` in the proportions `weights`; sample numbers run through the sources one after the other.

    Proportions are kept to a thousandth: a cycle of positions is dealt out as evenly as it can be, and each source goes
    through its own epochs at its own pace. A source with weight 0 is not drawn from.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float | int] | None = None):
        if weights is None:
            weights = [len(s) for s in sources]
        if len(weights) != len(sources) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(f"mixture of {len(sources)} sources: give as many weights, none negative, not all 0")
        self.sources, self.weights = list(sources), [w / sum(weights) for w in weights]
        self._starts = np.cumsum([0, *(len(s) for s in sources)])
        self.sample_bytes = max(1, round(sum(w * s.sample_bytes for w, s in zip(self.weights, sources))))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Any:
        source, inside = self._inside(index)
        return source[inside]

    def head(self, index: int, size: int) -> bytes:
        """The beginning of a picture: see `sources.head`."""
        return head(*self._inside(index), size)

    def _inside(self, index: int) -> tuple[Source, int]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.sources[which], index - int(self._starts[which])

    def fingerprint(self) -> str:
        """Changes with the sources, their order and the weights."""
        return digest("mixture", [s.fingerprint() for s in self.sources], self.weights)

    def order(self, orders: Sequence[Order]) -> Order:
        """Interleaves one order per source."""
        return Mixed(orders, self.weights, self._starts.tolist())


class Mixed:
    """Positions of a mixture; the place's index is the mixture's, its epoch the source's own."""

    def __init__(self, orders: Sequence[Order], weights: Sequence[float | int], starts: Sequence[int]):
        self.orders, self.weights, self.starts = list(orders), list(weights), list(starts)
        self.epoch_size = sum(order.epoch_size for order in orders)
        self.pattern = deal(weights)
        self.counts = np.bincount(self.pattern, minlength=len(orders))
        self.ranks = np.zeros(CYCLE, np.int64)
        for which in range(len(orders)):
            here = self.pattern == which
            self.ranks[here] = np.arange(here.sum())

    def __call__(self, position: int) -> Place:
        cycle, within = divmod(position, CYCLE)
        which = int(self.pattern[within])
        place = self.orders[which](cycle * int(self.counts[which]) + int(self.ranks[within]))
        return Place(place.epoch, place.index + self.starts[which])


def deal(weights: Sequence[float | int]) -> np.ndarray:
    """Which source each position of a cycle draws from: always the one that is furthest behind its share."""
    share = np.asarray(weights) / np.sum(weights)
    drawn = np.zeros(len(share))
    out = np.empty(CYCLE, np.int64)
    for i in range(CYCLE):
        out[i] = np.argmax(np.where(share > 0, share * (i + 1) - drawn, -np.inf))
        drawn[out[i]] += 1
    return out
