"""Curves as SVG and arrays as PNG, drawn directly: a report needs no plotting library and no script."""

import base64
import html
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 12, 44
MAX_POINTS = 400
LINES = 6
"""Number of line colours that the page's style sheet has (`.s0` to `.s5`)."""

# From dark blue over green to yellow, evenly rising in lightness, so that it reads in grey too.
_COLOURS = np.asarray([[28, 16, 68], [44, 72, 130], [32, 128, 140], [70, 176, 110], [180, 210, 60], [253, 240, 120]])


Scale = Callable[[float], float]


class Series(NamedTuple):
    """A line: points (x, y) in the order of x; values that are not finite leave a gap."""

    x: Sequence[float]
    y: Sequence[float]


def ticks(low: float | int, high: float | int, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) from `low` to `high`, those within."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def labels(values: Sequence[float]) -> list[str]:
    """Short numbers with as many digits as they have, which tell them apart."""
    exact = (n for n in range(4, 8) if all(math.isclose(float(f"{v:.{n}g}"), v, rel_tol=1e-9) for v in values))
    digits = next(exact, 8)
    return [number(value, digits) for value in values]


def number(value: float | int, digits: int = 4) -> str:
    """Short: four digits or as many as are asked for, thousands as k and millions as M."""
    if value != 0 and abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.{digits}g}{letter}"
    return f"{value:.{digits}g}"


def thin(series: Series, points: int = MAX_POINTS) -> Series:
    """At most about `points` of a series: in each stretch its smallest and largest, so that no spike is lost."""
    n = len(series.x)
    if n <= points:
        return series
    keep: set[int] = {0, n - 1}
    edges = np.linspace(0, n, points // 2 + 1).astype(int)
    y = np.asarray(series.y, np.float64)
    for a, b in itertools.pairwise(edges.tolist()):
        part = y[a:b]
        if np.isfinite(part).any():
            keep |= {a + int(np.nanargmin(part)), a + int(np.nanargmax(part))}
        if not np.isfinite(part).all():
            keep.add(a + int(np.flatnonzero(~np.isfinite(part))[0]))
    order = sorted(keep)
    return Series([series.x[i] for i in order], [series.y[i] for i in order])


def smooth(series: Series, share: float = 0.03) -> Series:
    """A moving average over `share` of the points on either side; values that are not finite are left out."""
    y = np.asarray(series.y, np.float64)
    half = max(1, round(share * len(y)))
    good = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    low = np.maximum(0, np.arange(len(y)) - half)
    high = np.minimum(len(y), np.arange(len(y)) + half + 1)
    total = counts[high] - counts[low]
    mean = np.where(total > 0, (sums[high] - sums[low]) / np.maximum(total, 1), np.nan)
    return Series(series.x, mean.tolist())


def line_chart(
    series: Mapping[str, Series], *, x_label: str, y_label: str, faint: Mapping[str, Series] | None = None
) -> str:
    """An SVG with axes, ticks and labels; a legend when there are several lines. `faint` lines lie behind their own.

    Colours come from the page's classes, so that the chart follows its light or dark scheme.
    """
    every = [*series.values(), *(faint or {}).values()]
    x = [float(v) for s in every for v in s.x]
    y = [float(v) for s in every for v in s.y if math.isfinite(v)]
    if not x or not y:
        return ""
    x_low, x_high = _range(x, 0.0)
    y_low, y_high = _range(y, 0.05)

    def across(v: float) -> float:
        return LEFT + (v - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(v: float) -> float:
        return HEIGHT - BOTTOM - (v - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_label)}">']
    marks = ticks(y_low, y_high)
    for v, text in zip(marks, labels(marks)):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(v):.1f}" y2="{down(v):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(v) + 4:.1f}" text-anchor="end">{text}</text>')
    whole = all(float(v).is_integer() for v in x)  # steps and layers have no halves
    marks = [v for v in ticks(x_low, x_high, 6) if not whole or float(v).is_integer()]
    for v, text in zip(marks, labels(marks)):
        parts.append(f'<line class="axis" x1="{across(v):.1f}" x2="{across(v):.1f}" y1="{HEIGHT - BOTTOM}"')
        parts.append(f' y2="{HEIGHT - BOTTOM + 4}"/>')
        parts.append(f'<text x="{across(v):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle, centre = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    parts.append(f'<text class="label" transform="translate(13 {centre}) rotate(-90)" text-anchor="middle">')
    parts.append(f"{html.escape(y_label)}</text>")
    for at, (name, line) in enumerate(series.items()):
        if faint and name in faint:
            parts.append(_path(thin(faint[name]), across, down, f"line faint s{at % LINES}", ""))
        parts.append(_path(thin(line), across, down, f"line s{at % LINES}", name))
    parts.append("</svg>")
    if len(series) > 1:
        keys = (f'<span><i class="key s{at % LINES}"></i>{html.escape(name)}</span>' for at, name in enumerate(series))
        parts.append(f'<div class="legend">{"".join(keys)}</div>')
    return "".join(parts)


def _path(series: Series, across: Scale, down: Scale, style: str, title: str) -> str:
    out, pen_up = [], True
    for x, y in zip(map(float, series.x), map(float, series.y)):
        if not math.isfinite(y):
            pen_up = True
            continue
        out.append(f"{'M' if pen_up else 'L'}{across(x):.1f} {down(y):.1f}")
        pen_up = False
    if len(out) == 1:
        x, y = next((float(x), float(y)) for x, y in zip(series.x, series.y) if math.isfinite(y))
        return f'<circle class="dot {style}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3"/>'
    tip = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<path class="{style}" d="{"".join(out)}">{tip}</path>'


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    pad = (high - low) * margin
    # An axis that nearly reaches zero begins there.
    start = 0.0 if 0 <= low < 0.25 * high else low - pad
    return start, high + pad


def png_uri(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def colours(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Values in 0..1 to the colour scale; NaN is grey."""
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(_COLOURS) - 1)
    low = np.minimum(at.astype(int), len(_COLOURS) - 2)
    part = (at - low)[..., None]
    rgb = _COLOURS[low] * (1 - part) + _COLOURS[low + 1] * part
    return np.where(np.isnan(values)[..., None], 128, np.round(rgb)).astype(np.uint8)


def heat_map(values: Float[np.ndarray, "n m"]) -> tuple[str, float, float]:
    """(data URI with a pixel a value, value of the darkest colour, value of the brightest)."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (values - low) / ((high - low) or 1.0)
    return png_uri(colours(scaled)), low, high
