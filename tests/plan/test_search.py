"""Searches find the largest batch and the best candidate, and say so where nothing fits."""

from typing import Any

import pytest

from jvlm.core.errors import ConfigError
from jvlm.nn.remat import REMAT
from jvlm.plan import search as searching
from jvlm.plan.compile import Plan
from jvlm.plan.roofline import Roofline
from jvlm.plan.search import best, largest_batch, mesh_override, meshes, nothing_fits, search
from jvlm.plan.topologies import Topology
from tests.plan.slices import small_clip

CAPACITY = 10_000_000


class Device:
    """Enough of a device to be counted."""

    slice_index = 0


def topology(devices: int) -> Topology:
    return Topology(f"v5e:1x{devices}", "v5e", (1, devices), 1, tuple(Device() for _ in range(devices)))


def made(peak: int, bound: float = 0.5) -> Plan:
    fits = peak <= CAPACITY
    return Plan(
        topology="", chips=8, mesh={}, params=0, kinds={}, arguments=0, temporaries=0, peak=peak, capacity=CAPACITY,
        compiled_flops=1 if fits else None, model_flops=1, moved=(), compile_s=0.0,
        roof=Roofline({"compute": 1.0}, "compute", bound) if fits else None,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def mesh_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "make_mesh", lambda shape, devices: None)
    monkeypatch.setattr(searching, "batch_shards", lambda mesh: 8)


@pytest.mark.parametrize("start", [8, 4096, 1 << 20])
@pytest.mark.parametrize(("fixed", "each", "curve"), [(1e6, 1000, 0), (9.5e6, 7, 0), (1e6, 500, 1e-2), (1e5, 90, 0)])
def test_the_largest_batch_is_the_last_that_fits(start: int, fixed: float, each: float, curve: float) -> None:
    tried: list[int] = []

    def peak(batch: int) -> Plan:
        tried.append(batch)
        return made(int(fixed + each * batch / 8 + curve * (batch / 8) ** 2))

    found = largest_batch(small_clip(batch=start), topology(8), peak)
    assert found % 8 == 0 and made(int(fixed + each * found / 8 + curve * (found / 8) ** 2)).fits
    following = found / 8 + 1
    assert fixed + each * following + curve * following**2 > CAPACITY
    assert len(set(tried)) == len(tried) <= searching.MOST_COMPILATIONS


def test_no_batch_at_all_fits() -> None:
    assert largest_batch(small_clip(batch=64), topology(8), lambda batch: made(CAPACITY + batch)) == 0


def test_the_best_fits_and_has_the_highest_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = {"none": made(CAPACITY + 5), "mlp": made(9_000_000, 0.7), "attention": made(8_000_000, 0.7)}
    seen: list[Any] = []

    def fake(config: Any, _: Topology) -> Plan:
        seen.append(config.model.remat)
        return outcome.get(config.model.remat, made(1_000_000, 0.6))

    monkeypatch.setattr(searching, "plan", fake)
    reported: list[str] = []
    found, candidates = search("remat", small_clip, topology(8), lambda c: reported.append(c.name))
    assert found is not None and found.name == "attention"
    assert seen == reported == [c.name for c in candidates] == list(REMAT)


def test_where_nothing_fits_the_closest_is_named() -> None:
    candidates = [searching.Candidate("a", made(CAPACITY + 2_000_000_000)), searching.Candidate("b", made(10**11))]
    assert best("mesh", candidates) is None
    assert "a comes closest, 2.00 GB above the capacity" in str(nothing_fits("mesh", candidates))


def test_meshes_use_every_chip_once() -> None:
    names = dict(meshes(small_clip(), topology(16)))
    assert {"dp:data=16", "fsdp:fsdp=16", "fsdp:data=4,fsdp=4"} <= set(names)
    assert any("tensor=2" in name for name in names)
    for name in names:
        sizes = [int(item.split("=")[1]) for item in name.partition(":")[2].split(",")]
        product = 1
        for size in sizes:
            product *= size
        assert product == 16, name
    assert names["fsdp:data=4,fsdp=4"] == mesh_override("fsdp:data=4,fsdp=4", "dp")


def test_a_mesh_on_the_command_line() -> None:
    assert mesh_override("data=-1", "fsdp") == "mesh={'preset': 'fsdp', 'shape': {'data': -1}}"
    for text in ("fsdp:data", "data=x", "zero:data=4"):
        with pytest.raises(ConfigError):
            mesh_override(text, "dp")
