"""Samplers that remember what the model said before: PNDM, DPM-Solver++ and UniPC."""

import math

import numpy as np

from jvlm.core.errors import ConfigError
from jvlm.generate.steps import (
    Combination,
    Plan,
    Row,
    Settings,
    added,
    assemble,
    karras_spaced,
    picture_of,
    ratios,
    spaced,
    times_of,
)
from jvlm.losses.noise import Schedule

# Adams-Bashforth, newest first, by how many outputs are known.
_WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def pndm(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """Pseudo-linear multistep (Liu et al., arXiv:2202.09778, algorithm 2).

    It starts with three steps of four calls (pseudo Runge-Kutta, eq. 13) or, as Stable Diffusion does, by repeating
    the second call.
    """
    if schedule.prediction not in ("epsilon", "v"):
        raise ConfigError(f"PNDM needs a model that predicts epsilon or v, not {schedule.prediction!r}")
    times = spaced(schedule, steps, settings)[::-1]
    stride = schedule.length // steps
    if settings.runge_kutta:
        if steps < 4:
            raise ConfigError(f"{steps} steps; PNDM with Runge-Kutta steps needs at least 4")
        four = times[-4:].repeat(2) + np.tile([0, stride // 2], 4)
        first = four[:-1].repeat(2)[1:-1][::-1]
        rest = times[:-3][::-1]
    else:
        first = np.zeros(0)
        rest = np.concatenate([times[:-1], times[-2:-1], times[-1:]])[::-1]
    every = np.concatenate([first, rest])[skip:]
    known: list[int] = []  # slots of the outputs that count, newest last
    rows = []
    for count, time in enumerate(every):
        slot, base, hold = _next(known), "y", False
        if count < len(first):
            stage = count % 4
            after = time - (0 if count % 2 else stride // 2)
            start, base, hold = first[count // 4 * 4], "anchor" if stage else "y", stage == 0
            slot = 3 + stage if stage else slot
            weights = {slot: 1.0} if stage < 3 else {known[-1]: 1 / 6, 4: 1 / 3, 5: 1 / 3, 6: 1 / 6}
            known = known if stage else [*known[-3:], slot]
        elif count == 1 and not settings.runge_kutta:
            start, after, base, slot = time + stride, time, "anchor", 4
            weights = {4: 1 / 2, known[-1]: 1 / 2}
        else:
            start, after, hold = time, time - stride, count == 0
            known = [*known[-3:], slot]
            weights = dict(zip(reversed(known), _WEIGHTS[len(known) - 1]))
        following = _transfer(schedule, settings, start, after, base, weights)
        own = _level(schedule, settings, time)
        rows.append(Row(float(time), own, (0.0, 1.0), following, slot=slot, hold=hold))
    return assemble(rows, 7 if settings.runge_kutta else 5)


def _next(known: list[int]) -> int:
    """A slot of the first four that none of the three newest outputs is in."""
    return next(slot for slot in range(4) if slot not in known[-3:])


def _level(schedule: Schedule, settings: Settings, time: float) -> tuple[float, float]:
    product = schedule.survival().astype(np.float64)
    now = product[int(time)] if time >= 0 else 1.0 if settings.final_one else product[0]
    return now**0.5, (1 - now) ** 0.5


def _transfer(
    schedule: Schedule, settings: Settings, start: float, after: float, base: str, weights: Combination
) -> dict:
    """From `base` at `start` to the time `after` along the combined output (arXiv:2202.09778, eq. 11)."""
    (a, s), (a2, s2) = _level(schedule, settings, start), _level(schedule, settings, after)
    factor = -(a2**2 - a**2) / (a**2 * s2 + a * s * a2)
    if schedule.prediction == "v":
        return added((a2 / a + factor * s, {base: 1.0}), (factor * a, weights))
    return added((a2 / a, {base: 1.0}), (factor, weights))


def _solver_ladder(schedule: Schedule, steps: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(times, noise-to-signal ratios with a 0 behind)."""
    known = ratios(schedule)
    if settings.karras:
        sigmas = karras_spaced(known[0], known[-1], steps)
        return times_of(sigmas, schedule).round(), np.append(sigmas, 0.0)
    times = spaced(schedule, steps, settings, beyond=int(settings.spacing != "trailing"))
    return times, np.append(np.interp(times, np.arange(len(known)), known), 0.0)


def _unit(ratio: float) -> tuple[float, float]:
    """(alpha, sigma) with squares that add up to one, of a noise-to-signal ratio."""
    alpha = 1 / (ratio**2 + 1) ** 0.5
    return alpha, ratio * alpha


def _logsnr(ratio: float) -> float:
    return -math.log(ratio) if ratio > 0 else math.inf


def dpm(schedule: Schedule, steps: int, settings: Settings, skip: int = 0, noisy: bool = False) -> Plan:
    """DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, algorithm 2), first order at both ends."""
    times, sigmas = _solver_ladder(schedule, steps, settings)
    rows = []
    for index in range(skip, steps):
        now, then = sigmas[index], sigmas[index + 1]
        (alpha, sigma), (_, noise) = _unit(then), _unit(now)
        step = _logsnr(then) - _logsnr(now)
        decay = math.exp(-step)
        weight = alpha * (1 - (decay**2 if noisy else decay))
        new, old = index % 2, (index - 1) % 2
        following: dict = {"y": sigma / noise * (decay if noisy else 1.0), new: weight}
        if index > skip and index < steps - 1:
            ratio = (_logsnr(now) - _logsnr(sigmas[index - 1])) / step
            following = added((1.0, following), (weight / 2 / ratio, {new: 1.0, old: -1.0}))
        if noisy:
            following["noise"] = sigma * (1 - decay**2) ** 0.5
        level = _unit(now)
        rows.append(Row(times[index], level, picture_of(schedule.prediction, *level), following, slot=new))
    return assemble(rows, 2)


def dpm_sde(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """SDE-DPM-Solver++(2M) (arXiv:2211.01095, appendix B), whose steps add noise."""
    return dpm(schedule, steps, settings, skip, noisy=True)


def unipc(schedule: Schedule, steps: int, settings: Settings, skip: int = 0) -> Plan:
    """UniPC of order 2 in B2 form (Zhao et al., arXiv:2302.04867, algorithms 5 and 7): each output corrects the step
    that led to it before it predicts the next one.
    """
    times, sigmas = _solver_ladder(schedule, steps, settings)
    rows = []
    orders: dict[int, int] = {}
    for index in range(skip, steps):
        slot = {back: (index - back) % 3 for back in range(3)}
        current: dict = {"x": 1.0}
        if index > skip:
            current = _unipc(sigmas, index - 1, orders[index - 1], slot[1], slot[2], slot[0])
        orders[index] = min(2, steps - index, index - skip + 1)
        following = _unipc(sigmas, index, orders[index], slot[0], slot[1])
        following["y"] = following.pop("anchor")
        level = _unit(sigmas[index])
        convert = picture_of(schedule.prediction, *level)
        rows.append(Row(times[index], level, convert, following, current, slot[0], hold=True))
    return assemble(rows, 3)


def _unipc(sigmas: np.ndarray, index: int, order: int, newest: int, older: int, reached: int | None = None) -> dict:
    """The step from `index` on, from the anchor: predicted, or corrected by the output that it `reached`."""
    now, then = sigmas[index], sigmas[index + 1]
    (alpha, sigma), (_, noise) = _unit(then), _unit(now)
    step = _logsnr(then) - _logsnr(now)
    grown = math.expm1(-step)
    out: dict = {"anchor": sigma / noise, newest: -alpha * grown}
    ratio = (_logsnr(sigmas[index - 1]) - _logsnr(now)) / step if order > 1 else 0.0
    weights = [0.5] if reached is None or order == 1 else _corrector_weights(step, ratio)
    if order > 1:
        scale = -alpha * grown * weights[0] / ratio
        out = added((1.0, out), (scale, {older: 1.0, newest: -1.0}))
    if reached is not None:
        out = added((1.0, out), (-alpha * grown * weights[-1], {reached: 1.0, newest: -1.0}))
    return out


def _corrector_weights(step: float, ratio: float) -> list[float]:
    """The weights that match two terms of the exponential integrator (arXiv:2302.04867, eq. 7)."""
    grown = math.expm1(-step)
    first = grown / -step - 1
    second = first / -step - 1 / 2
    return list(np.linalg.solve(np.asarray([[1.0, 1.0], [ratio, 1.0]]), np.asarray([first, 2 * second]) / grown))
