"""Charts show every value they are given, on round ticks, and heat maps every cell."""

import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from jvlm.train import plots
from jvlm.train.plots import Series


def pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 17), (0.0012, 0.0019), (1e6, 7e6), (99.5, 100.5)])
def test_ticks_are_round_evenly_spaced_and_inside(low: float, high: float) -> None:
    found = plots.ticks(low, high)
    assert 3 <= len(found) <= 7
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0])
    assert low - 1e-9 <= found[0] <= found[-1] <= high + 1e-9
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert any(math.isclose(mantissa, m, rel_tol=1e-6) for m in (1, 2, 2.5, 5))


def test_ticks_of_a_point_are_the_point() -> None:
    assert plots.ticks(2.0, 2.0) == [2.0]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.5, "0.5"), (5e-5, "5e-5"), (12345, "12.35k"), (2.5e6, "2.5M"), (-3, "-3")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert plots.number(value) == text


def test_an_axis_of_steps_has_no_halves() -> None:
    chart = plots.line_chart({"a": Series([0, 1, 2], [1.0, 2.0, 3.0])}, x_label="layer", y_label="y")
    assert re.findall(r'text-anchor="middle">([\d.]+)</text>', chart) == ["0", "1", "2"]


def test_labels_have_as_many_digits_as_tell_them_apart() -> None:
    assert plots.labels([1.0, 1.5]) == ["1", "1.5"]
    assert plots.labels([14.2925, 14.295, 14.2975]) == ["14.2925", "14.295", "14.2975"]


def test_thinning_keeps_ends_and_spikes() -> None:
    y = np.zeros(10_000)
    y[4321], y[77] = 9.0, -5.0
    thin = plots.thin(Series(range(10_000), y.tolist()))
    assert len(thin.x) <= plots.MAX_POINTS + 4
    assert (thin.x[0], thin.x[-1]) == (0, 9999)
    assert (4321, 9.0) in list(zip(thin.x, thin.y))
    assert (77, -5.0) in list(zip(thin.x, thin.y))


def test_smoothing_is_the_mean_of_a_window_and_skips_what_is_not_finite() -> None:
    line = Series(range(5), [1.0, 2.0, math.nan, 4.0, 6.0])
    assert plots.smooth(line, share=0.01).y == [1.5, 1.5, 3.0, 5.0, 5.0]


def test_a_chart_is_sound_xml_with_a_point_where_the_value_is() -> None:
    svg = plots.line_chart({"a": Series([0, 10], [0.0, 1.0])}, x_label="step", y_label="<loss> & more")
    root = ElementTree.fromstring(svg)
    path = next(e for e in root.iter() if e.tag == "path")
    points = [tuple(map(float, p.split())) for p in re.findall(r"[ML]([\d.]+ [\d.]+)", path.attrib["d"])]
    assert points[0] == (plots.LEFT, plots.HEIGHT - plots.BOTTOM)
    assert points[1][0] == plots.WIDTH - plots.RIGHT
    labels = [e.text for e in root.iter("text")]
    assert "<loss> & more" in labels
    assert "step" in labels


def test_gaps_break_the_line_and_one_point_is_a_dot() -> None:
    svg = plots.line_chart({"a": Series([0, 1, 2, 3], [1.0, math.nan, 2.0, 3.0])}, x_label="x", y_label="y")
    assert len(re.findall(r"M[\d.]+ ", svg)) == 2
    assert "nan" not in svg
    assert "<circle" in plots.line_chart({"a": Series([1], [1.0])}, x_label="x", y_label="y")
    assert plots.line_chart({"a": Series([1], [math.nan])}, x_label="x", y_label="y") == ""


def test_a_heat_map_has_a_pixel_a_value_brighter_for_more() -> None:
    uri, low, high = plots.heat_map(np.asarray([[0.0, 0.5, 1.0], [np.nan, -1.0, 0.2]]))
    image = pixels(uri)
    assert image.shape == (2, 3, 3)
    assert (low, high) == (-1.0, 1.0)
    light = image.astype(int).sum(-1)
    assert light[1, 1] < light[0, 0] < light[0, 1] < light[0, 2]
    assert image[1, 0].tolist() == [128, 128, 128]
