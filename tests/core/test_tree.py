"""Patterns over parameter paths, and trees as flat dicts."""

import numpy as np
import pytest

from jvlm.core import tree
from jvlm.core.errors import ConfigError

PATHS = ["image/blocks/layers/attn/query/kernel", "image/blocks/layers/attn/query/bias", "image/norm/scale", "scale"]


def test_flatten_and_unflatten_are_inverse() -> None:
    nested = {"a": {"b": np.ones(2), "c": {"d": np.zeros(3)}}, "e": np.arange(4)}
    flat = tree.flatten(nested)
    assert list(flat) == ["a/b", "a/c/d", "e"]
    again = tree.unflatten(flat)
    assert again["a"]["c"]["d"] is nested["a"]["c"]["d"]
    assert tree.flatten(again).keys() == flat.keys()


def test_a_star_crosses_slashes_and_a_pattern_is_whole() -> None:
    assert tree.select(PATHS, ["image/*"]) == PATHS[:3]
    assert tree.select(PATHS, ["*/query/kernel"]) == PATHS[:1]
    assert tree.select(PATHS, ["scale"]) == ["scale"]
    assert tree.select(PATHS, ["*scale"]) == PATHS[2:]


def test_selection_keeps_the_order_of_the_tree() -> None:
    assert tree.select(PATHS, ["scale", "*kernel"]) == [PATHS[0], PATHS[3]]


def test_a_pattern_that_matches_nothing_names_itself_and_the_nearest_path() -> None:
    with pytest.raises(ConfigError, match=r"'image/norm/scales'.*'image/norm/scale'"):
        tree.select(PATHS, ["image/*", "image/norm/scales"])


def test_the_first_matching_rule_labels_a_path() -> None:
    labels = tree.label(PATHS, [("*bias", 1), ("image/*", 2), ("*kernel", 3)], default=0)
    assert list(labels.values()) == [2, 1, 2, 0]


def test_a_rule_that_matches_nothing_is_an_error_even_where_a_default_exists() -> None:
    with pytest.raises(ConfigError, match="text"):
        tree.label(PATHS, [("text/*", 1)], default=0)


def test_mapping_over_paths_keeps_the_structure() -> None:
    nested = {"a": {"b": 1, "c": 2}, "d": 3}
    assert tree.map_paths(lambda path, x: f"{path}={x}", nested) == {"a": {"b": "a/b=1", "c": "a/c=2"}, "d": "d=3"}


def test_count_sums_scalars() -> None:
    assert tree.count({"a": np.ones((2, 3)), "b": {"c": np.ones(())}}) == 7
