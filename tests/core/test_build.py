"""Errors of a configuration name what is wrong and the nearest right name."""

from typing import Any

import pytest

from jvlm import models
from jvlm.core import build
from jvlm.core.errors import ConfigError
from tests.models_util import tiny


def make(width: int, *, depth: int = 1) -> tuple[int, int]:
    return width, depth


def test_a_call_passes_its_arguments() -> None:
    assert build.call(make, dict(width=2, depth=3), "thing") == (2, 3)


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="thing has no field 'widht'; did you mean 'width'"):
        build.call(make, dict(widht=2), "thing")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="needs the field 'width'"):
        build.call(make, {}, "thing")


def test_an_open_ended_function_takes_any_field() -> None:
    assert build.call(lambda **fields: fields, dict(anything=1), "thing") == dict(anything=1)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="colour 'bleu' is unknown; did you mean 'blue'"):
        build.lookup(dict(blue=1, red=2), "bleu", "colour")


def test_merge_goes_into_dicts_and_leaves_its_arguments_alone() -> None:
    base: dict[str, Any] = dict(a=dict(b=1, c=2), d=3)
    assert build.merge(base, dict(a=dict(c=4), d=dict(e=5))) == dict(a=dict(b=1, c=4), d=dict(e=5))
    assert base == dict(a=dict(b=1, c=2), d=3)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (dict(family="clop"), "did you mean 'clip'"),
        (dict(family="clip", variant="ViT-B/23"), "did you mean 'ViT-B/32'"),
        (dict(tiny("clip"), embed_din=3), "did you mean 'embed_dim'"),
        (tiny("clip", image=dict(patchsize=3)), "did you mean 'patch_size'"),
        (tiny("siglip", text=dict(vocab=3)), "did you mean 'vocab_size'"),
        (dict(tiny("vit"), widht=3), "did you mean 'width'"),
        (dict(tiny("bert"), lenght=3), "did you mean 'length'"),
        (tiny("align", image=dict(depth_mul=3)), "did you mean 'depth_mult'"),
    ],
)
def test_a_model_s_configuration_names_the_nearest_field(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        models.create(config)
