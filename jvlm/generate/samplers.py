"""Samplers of one step at a time, and the table of all: name to the rows that it writes."""

import itertools
from collections.abc import Callable

import numpy as np

from jvlm.core.build import lookup
from jvlm.core.errors import ConfigError
from jvlm.generate.multistep import dpm, dpm_sde, pndm, unipc
from jvlm.generate.steps import (
    Plan,
    Row,
    Settings,
    assemble,
    karras_spaced,
    noise_of,
    picture_of,
    ratios,
    spaced,
    times_of,
)
from jvlm.losses.noise import Schedule, shifted

Sampler = Callable[[Schedule, int, Settings, int], Plan]
"""`(schedule, steps, settings, skip)`: the plan of all `steps` but the first `skip`."""


def ddpm(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Ancestral sampling with the smaller variance (Ho et al., arXiv:2006.11239, algorithm 2 and eq. 7)."""
    product = schedule.survival().astype(np.float64)
    times = spaced(schedule, steps, settings)
    rows = []
    for time, after in zip(times, [*times[1:], -1]):
        now, then = product[int(time)], product[int(after)] if after >= 0 else 1.0
        beta, level = 1 - now / then, (now**0.5, (1 - now) ** 0.5)
        variance = max((1 - then) / (1 - now) * beta, 1e-20)
        following = {0: then**0.5 * beta / (1 - now), "y": (now / then) ** 0.5 * (1 - then) / (1 - now)}
        following["noise"] = variance**0.5 if time > 0 else 0.0
        rows.append(Row(time, level, picture_of(schedule.prediction, *level), following))
    return assemble(rows[skip:], 1, settings.clip)


def ddim(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Song et al., arXiv:2010.02502, eq. 12; `settings.eta` 0 is deterministic."""
    product = schedule.survival().astype(np.float64)
    rows = []
    for time in spaced(schedule, steps, settings):
        after = int(time) - schedule.length // steps
        now = product[int(time)]
        then = product[after] if after >= 0 else 1.0 if settings.final_one else product[0]
        level = (now**0.5, (1 - now) ** 0.5)
        drawn = settings.eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        direction = (1 - then - drawn**2) ** 0.5
        of_x, of_out = noise_of(schedule.prediction, *level)
        following = {0: then**0.5, "y": direction * of_x, "out": direction * of_out, "noise": drawn}
        rows.append(Row(time, level, picture_of(schedule.prediction, *level), following))
    return assemble(rows[skip:], 1, settings.clip)


def lcm(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Multistep sampling of a consistency model (Luo et al., arXiv:2310.04378, algorithm 3)."""
    original = settings.original_steps
    taught = (np.arange(1, original + 1) * (schedule.length // original) - 1)[::-1]
    if not 1 <= steps <= original:
        raise ConfigError(f"{steps} steps; the model was distilled to {original}, give 1 to {original}")
    product = schedule.survival().astype(np.float64)
    times = taught[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)]
    rows = []
    for index, time in enumerate(times):
        now, scaled = product[time], time * settings.time_scaling
        level = (float(now) ** 0.5, float(1 - now) ** 0.5)
        keep, take = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        last = index == len(times) - 1
        then = 1.0 if last else product[times[index + 1]]
        following = {0: then**0.5 * take, "y": then**0.5 * keep, "noise": (1 - then) ** 0.5}
        rows.append(Row(float(time), level, picture_of(schedule.prediction, *level), following))
    return assemble(rows[skip:], 1, settings.clip)


def _ladder(schedule: Schedule, steps: int, settings: Settings) -> tuple[np.ndarray, np.ndarray, float]:
    """(times, noise-to-signal ratios with a 0 behind, factor of the first noise)."""
    known = ratios(schedule)
    times = spaced(schedule, steps, settings, rounded=False)
    sigmas = np.interp(times, np.arange(len(known)), known)
    if settings.karras:
        sigmas = karras_spaced(sigmas[-1], sigmas[0], steps)
        times = times_of(sigmas, schedule)
    start = sigmas.max() if settings.spacing != "leading" else (sigmas.max() ** 2 + 1) ** 0.5
    return times, np.append(sigmas, 0.0), start


def _row(schedule: Schedule, time: float, sigma: float, following: dict, **fields) -> Row:
    """A row of a sampler whose pictures are `picture + sigma * noise`, which the model sees divided by their norm."""
    alpha = 1 / (sigma**2 + 1) ** 0.5
    of_x, of_out = picture_of(schedule.prediction, alpha, sigma * alpha)
    return Row(time, (1.0, sigma), (of_x * alpha, of_out), following, scale=alpha, **fields)


def euler(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Karras et al., arXiv:2206.00364, algorithm 2 without its correction and noise."""
    times, sigmas, start = _ladder(schedule, steps, settings)
    rows = [
        _row(schedule, time, now, {"y": then / now, 0: 1 - then / now})
        for time, now, then in zip(times, sigmas, sigmas[1:])
    ]
    return assemble(rows[skip:], 1, settings.clip, start)


def euler_ancestral(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Euler steps below the level aimed at, and noise up to it: ancestral sampling of any process."""
    times, sigmas, start = _ladder(schedule, steps, settings)
    rows = []
    for time, now, then in zip(times, sigmas, sigmas[1:]):
        up = (then**2 * (now**2 - then**2) / now**2) ** 0.5
        down = (then**2 - up**2) ** 0.5
        rows.append(_row(schedule, time, now, {"y": down / now, 0: 1 - down / now, "noise": up}))
    return assemble(rows[skip:], 1, settings.clip, start)


def heun(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Karras et al., arXiv:2206.00364, algorithm 1: two calls a step but for the last."""
    times, sigmas, start = _ladder(schedule, steps, settings)
    rows = []
    for index in range(skip, steps):
        now, then = sigmas[index], sigmas[index + 1]
        following = {"y": then / now, 0: 1 - then / now}
        rows.append(_row(schedule, times[index], now, following, hold=True))
        if index < steps - 1:
            half = (then - now) / 2
            following = {"anchor": 1 + half / now, 0: -half / now, "y": half / then, 1: -half / then}
            rows.append(_row(schedule, times[index + 1], then, following, slot=1))
    return assemble(rows, 2, settings.clip, start)


def flow(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Euler steps along a rectified flow (arXiv:2209.03003; arXiv:2403.03206)."""
    low = shifted(np.asarray([1 / schedule.length]), schedule.shift)[0]
    sigmas = np.append(shifted(np.linspace(1.0, low, steps), schedule.shift), 0.0)
    rows = [
        Row(now * schedule.length, (1 - now, now), picture_of("flow", 1 - now, now), {"y": 1.0, "out": then - now})
        for now, then in itertools.pairwise(sigmas)
    ]
    return assemble(rows[skip:], 1)


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpm++": dpm,
    "dpm++-sde": dpm_sde,
    "euler": euler,
    "euler-ancestral": euler_ancestral,
    "flow": flow,
    "heun": heun,
    "lcm": lcm,
    "pndm": pndm,
    "unipc": unipc,
}


def plan(name: str, schedule: Schedule, steps: int, settings: Settings | None = None, strength: float = 1.0) -> Plan:
    """The plan of the sampler `name`. With `strength` below 1 only that share of the steps is taken, the last ones.

    Raises ConfigError for an unknown sampler, a schedule that it does not solve, or steps or strength out of range.
    """
    sampler = lookup(SAMPLERS, name, "sampler")
    if not 0 < strength <= 1:
        raise ConfigError(f"strength {strength}; give more than 0 and at most 1")
    if (schedule.kind == "flow") != (name == "flow"):
        raise ConfigError(f"sampler {name!r} does not solve a {schedule.kind!r} schedule; use the model's own")
    if not 1 <= steps <= schedule.length:
        raise ConfigError(f"{steps} steps; the model was trained with {schedule.length}, give 1 to {schedule.length}")
    taken = min(int(steps * strength), steps)
    if not taken:
        raise ConfigError(f"strength {strength} of {steps} steps is none at all; give more of one of them")
    return sampler(schedule, steps, settings or Settings(), steps - taken)
