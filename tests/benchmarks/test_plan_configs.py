"""The recorded plans are those of the configurations that ship, and say what was promised."""

import importlib.util
import json
from typing import Any

import pytest

from jvlm import models
from jvlm.models.clip import VARIANTS
from jvlm.train.config import load_config, to_plain
from tests.commands import ROOT
from tests.plan.counts import clip_step

_spec = importlib.util.spec_from_file_location("plan_configs", ROOT / "benchmarks" / "plan_configs.py")
assert _spec is not None and _spec.loader is not None
plan_configs: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plan_configs)

RECORDS: dict[str, Any] = json.loads(plan_configs.RECORD.read_text())


def test_the_page_is_that_of_the_records() -> None:
    assert plan_configs.TABLE.read_text() == plan_configs.table(RECORDS), "run python benchmarks/plan_configs.py"


def test_only_configurations_for_tpus_have_a_plan() -> None:
    planned = {step.file for step in plan_configs.planned_steps().values()}
    assert set(RECORDS) <= set(plan_configs.planned_steps())
    names = {path.name for path in (ROOT / "configs").glob("*.py")} - {"__init__.py"}
    for name in names - planned:
        assert "Hardware: two CPU cores." in (ROOT / "configs" / name).read_text(), name


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_recorded_plan_is_of_the_present_configuration_and_fits(name: str) -> None:
    found, step = RECORDS[name], plan_configs.planned_steps()[name]
    assert found["digest"] == plan_configs.digest(step), f"run python benchmarks/plan_configs.py {name!r}"
    assert found["topology"] == step.topology
    assert found["fits"] and found["bytes"]["peak"] <= found["bytes"]["capacity"]
    assert 0 < found["mfu_bound"] < 1


def test_clip_l14_needs_at_most_six_gigabytes_and_the_flops_of_a_hand_count() -> None:
    name = "clip_l14_laion_pretrain.py"
    found, config = RECORDS[name], to_plain(load_config(name))
    assert (found["topology"], found["batch_size"], found["remat"]) == ("v5e:16x16", 32_768, "full")
    assert config["mesh"]["preset"] == "fsdp"
    assert found["bytes"]["peak"] <= 6e9
    model = models.fields({"family": "clip", **VARIANTS["ViT-L/14"]})
    compiled = clip_step(model, 32_768, recompute=True, loss_units=4) / 256
    assert found["flops"]["compiled"] == pytest.approx(compiled, rel=0.02)
    least = clip_step(model, 32_768, recompute=False, loss_units=3) / 256
    assert found["flops"]["model"] == pytest.approx(least, rel=0.002)
