"""Slices by name: devices, slices, and one line for a name that is none."""

import importlib.util

import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.core.sharding import make_mesh
from jvlm.plan import topologies
from jvlm.plan.topologies import CHIPS, describe, parse
from tests.plan.slices import needs_libtpu


def test_names_say_slices_kind_and_shape() -> None:
    assert parse("v5e:16x16") == (1, "v5e", (16, 16))
    assert parse("4xv5p:8x8x16") == (4, "v5p", (8, 8, 16))
    assert parse("tpu7x:2x2x1") == (1, "tpu7x", (2, 2, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "does not read like"),
        ("v5e-256", "does not read like"),
        ("v6:4x4", "did you mean"),
        ("v5e:4x4x4", "has 2 axes"),
        ("v5p:4x4", "has 3 axes"),
        ("v5e:0x4", "has no chips"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(name)


def test_without_libtpu_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install jvlm\[tpu\]"):
        describe("v5e:2x4")


def test_chips_have_the_published_peaks() -> None:
    assert {kind: chip.flops / 1e12 for kind, chip in CHIPS.items()} == {
        "v4": 275, "v5e": 197, "v5p": 459, "v6e": 918, "tpu7x": 2307,
    }  # fmt: skip
    assert all(chip.memory_rate < chip.flops / 100 for chip in CHIPS.values())


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x4", "v5e:1x1", "v5e:16x16", "v5p:8x8x16", "v6e:4x4", "tpu7x:2x2x1"])
def test_a_slice_has_a_device_for_each_core(name: str) -> None:
    found = describe(name)
    assert len(found.devices) == found.chips * found.chip.cores


@needs_libtpu
def test_a_shape_that_libtpu_refuses_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no slice that libtpu knows"):
        describe("v5e:3x5")


@needs_libtpu
def test_replicas_are_whole_slices() -> None:
    found = describe("2xv5e:4x4")
    assert found.chips == len(found.devices) == 32
    mesh = make_mesh({"data": 4, "fsdp": 4}, found.devices)
    assert mesh.shape["replica"] == 2
    for replica in range(2):
        assert {device.slice_index for device in mesh.devices[replica].flat} == {replica}
    with pytest.raises(ConfigError, match="no multiple of the 2 slices"):
        make_mesh({"replica": 1, "data": 32}, found.devices)


def test_the_environment_is_that_of_the_design() -> None:
    assert set(topologies.ENVIRONMENT) == {
        "TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_LOG_DIR",
    }  # fmt: skip
