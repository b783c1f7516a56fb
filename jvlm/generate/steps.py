"""What a sampler does, as a table: every solver in use moves by linear combinations whose factors are known before.

A sampler (`generate/samplers.py`) writes one row a call of the model; `generate/diffusion.py` runs any table by the
same program. Tables are computed on the host in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import struct

from jvlm.core.errors import ConfigError, nearest
from jvlm.losses.noise import Schedule

Combination = Mapping[Any, float]
"""Factors by what they multiply: `x`, `anchor`, `y`, `out`, `noise`, or the number of a slot."""
SPACINGS = ("linspace", "leading", "trailing")


@dataclass(frozen=True)
class Settings:
    """What a sampler may be told beside its name; the names and defaults of a scheduler file differ by class.

    `spacing` of the times (arXiv:2305.08891, table 2) with `offset` added to those of `leading`. `final_one`: the last
    step ends without any noise, instead of at the first time's. `clip` bounds predicted pictures. `eta` is the share of
    DDIM's noise. `karras` spaces noise levels (arXiv:2206.00364, eq. 5). `runge_kutta`: PNDM starts with such steps.
    `original_steps` and `time_scaling` are LCM's.
    """

    spacing: str = "leading"
    offset: int = 0
    final_one: bool = True
    clip: float | None = None
    eta: float = 0.0
    karras: bool = False
    runge_kutta: bool = False
    original_steps: int = 50
    time_scaling: float = 10.0

    def __post_init__(self) -> None:
        if self.spacing not in SPACINGS:
            raise ConfigError(f"spacing {self.spacing!r} is unknown; {nearest(self.spacing, SPACINGS)}")


@dataclass(frozen=True)
class Row:
    """One call of the model: `out = model(scale * x, time)`, then

    slots[slot] = clip(convert[0] * x + convert[1] * out)
    y = current . (x, anchor, slots);  x = following . (y, anchor, out, noise, slots);  anchor = y if `hold`.

    Pictures of level (alpha, sigma) are `alpha * picture + sigma * noise` where x stands before this row.
    """

    time: float
    level: tuple[float, float]
    convert: tuple[float, float]
    following: Combination
    current: Combination = field(default_factory=lambda: {"x": 1.0})
    slot: int = 0
    hold: bool = False
    scale: float = 1.0


class Plan(struct.PyTreeNode):
    """Rows as arrays: S rows, K slots; `levels` [S + 1, 2], the last of them (1, 0). `start` multiplies first noise."""

    times: Any
    scale: Any
    convert: Any
    slot: Any
    current: Any
    following: Any
    hold: Any
    levels: Any
    clip: Any
    start: Any

    @property
    def slots(self) -> int:
        """Number of predictions that are remembered."""
        return self.current.shape[1] - 2

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise; for a plan that is not traced."""
        return bool(np.any(np.asarray(self.following)[:, 3]))


def assemble(rows: Sequence[Row], slots: int, clip: float | None = None, start: float = 1.0) -> Plan:
    """The rows as a `Plan` of float32 arrays."""

    def factors(combination: Combination, names: tuple[str, ...]) -> list[float]:
        keys = [*names, *range(slots)]
        assert set(combination) <= set(keys), combination
        return [combination.get(key, 0.0) for key in keys]

    def array(values: Any, dtype: Any = np.float32) -> np.ndarray:
        return np.asarray(values, dtype)

    return Plan(
        times=array([row.time for row in rows]),
        scale=array([row.scale for row in rows]),
        convert=array([row.convert for row in rows]),
        slot=array([row.slot for row in rows], np.int32),
        current=array([factors(row.current, ("x", "anchor")) for row in rows]),
        following=array([factors(row.following, ("y", "anchor", "out", "noise")) for row in rows]),
        hold=array([row.hold for row in rows], np.bool_),
        levels=array([*(row.level for row in rows), (1.0, 0.0)]),
        clip=array(np.inf if clip is None else clip),
        start=array(start),
    )


def added(*combinations: tuple[float, Combination]) -> dict[Any, float]:
    """The sum of combinations, each times its factor."""
    out: dict[Any, float] = {}
    for factor, combination in combinations:
        for key, value in combination.items():
            out[key] = out.get(key, 0.0) + factor * value
    return out


def picture_of(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """Factors of (x, out) whose sum is the picture predicted at a level."""
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    return {"v": (alpha, -sigma), "x0": (0.0, 1.0), "flow": (1.0, -sigma)}[prediction]


def noise_of(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """Factors of (x, out) whose sum is the noise predicted at a level."""
    if prediction == "x0":
        return 1 / sigma, -alpha / sigma
    return {"epsilon": (0.0, 1.0), "v": (sigma, alpha), "flow": (1.0, alpha)}[prediction]


def spaced(schedule: Schedule, steps: int, settings: Settings, *, rounded: bool = True, beyond: int = 0) -> np.ndarray:
    """Times of `steps` steps, most noise first, [steps] in float64. `beyond` 1 leaves room for a step after the last.

    Raises ConfigError for a number of steps that the schedule does not have.
    """
    length = schedule.length
    if not 1 <= steps <= length - beyond:
        raise ConfigError(f"{steps} steps; the model was trained with {length}, give 1 to {length - beyond}")
    if settings.spacing == "linspace":
        times = np.linspace(0, length - 1, steps + beyond)
        # Where times are not rounded, the reference computes them in float32.
        times = times.round() if rounded else np.linspace(0, length - 1, steps + beyond, dtype=np.float32)
        return times[::-1][:steps].astype(np.float64)
    if settings.spacing == "leading":
        times = np.arange(steps + beyond) * (length // (steps + beyond))
        return times[::-1][:steps].astype(np.float64) + settings.offset
    return np.round(np.arange(length, 0, -length / steps)) - 1


def ratios(schedule: Schedule) -> np.ndarray:
    """sigma / alpha of every time, [length] in float64; finite at the end of a schedule without a signal there."""
    product = schedule.survival().copy()
    if schedule.zero_terminal_snr:
        product[-1] = 2.0**-24
    return np.sqrt((1 - product) / product).astype(np.float64)


def karras_spaced(low: float, high: float, steps: int) -> np.ndarray:
    """Noise levels from `high` to `low` (Karras et al., arXiv:2206.00364, eq. 5, rho 7)."""
    ramp = np.linspace(0, 1, steps)
    return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7


def times_of(levels: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Where in the schedule a noise-to-signal ratio is, by interpolating its logarithm."""
    known = np.log(ratios(schedule))
    return np.interp(np.log(np.maximum(levels, 1e-10)), known, np.arange(len(known)))


def put(plan: Plan) -> Plan:
    """The plan on the device."""
    return jax.tree.map(jax.numpy.asarray, plan)
