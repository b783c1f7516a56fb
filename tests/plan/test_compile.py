"""A plan says what the compiled step needs and does, and what is missing where it does not fit."""

from typing import Any

import jax
import pytest

from jvlm.core.errors import UserError
from jvlm.plan import compile as compiling
from jvlm.plan.compile import abstract_step, plan
from jvlm.plan.picture import memory_picture
from jvlm.plan.topologies import describe
from jvlm.train.setup import setup
from tests.plan.counts import clip_step
from tests.plan.slices import BATCH, CLIP, needs_libtpu, planned, small_clip

pytestmark = needs_libtpu
CHIPS = 8


def test_flops_are_a_hand_count_s_loops_included() -> None:
    found = planned()
    assert found.fits and found.compiled_flops is not None and found.unknown_loops == 0
    compiled = clip_step(CLIP, BATCH, recompute=True, loss_units=4) / CHIPS
    model = clip_step(CLIP, BATCH, recompute=False, loss_units=3) / CHIPS
    assert found.compiled_flops == pytest.approx(compiled, rel=0.02)
    assert found.model_flops == pytest.approx(model, rel=0.001)


def test_bytes_are_those_of_the_state_and_the_batch() -> None:
    found = planned()
    per_chip = {kind: size / 1e6 for kind, size in found.kinds.items()}
    params = found.params * 4 / 1e6
    # Split four ways, but for what is too small or of no name; Adam has two moments.
    assert params / 4 <= per_chip["parameters"] < 1.2 * params / 4
    assert per_chip["optimizer"] == pytest.approx(2 * per_chip["parameters"], rel=0.01)
    pixels, tokens = BATCH * 56 * 56 * 3 * 4, BATCH * 16 * 4
    assert found.kinds["batch"] == (pixels + tokens + BATCH * 4) // CHIPS
    assert sum(found.kinds.values()) <= found.arguments <= found.peak <= found.capacity
    assert found.temporaries > 0
    assert found.capacity == pytest.approx(15.75 * 2**30, rel=1e-3)


def test_fsdp_gathers_parameters_and_reduces_gradients_along_its_axis() -> None:
    found = planned()
    assert found.moved is not None and found.roof is not None
    axes = {m.axis for m in found.moved}
    assert any("fsdp" in axis for axis in axes) and any("data" in axis for axis in axes)
    assert axes <= {"data", "fsdp", "data,fsdp"}
    gathered = sum(m.bytes for m in found.moved if m.kind == "all-gather" and "fsdp" in m.axis)
    # Forward and in the recomputation of the backward pass, in bfloat16 or wider.
    assert gathered >= 2 * found.params
    assert 0 < found.roof.mfu_bound < 1
    assert found.roof.seconds[found.roof.bottleneck] == max(found.roof.seconds.values())


def test_slices_exchange_over_the_network_along_replica_alone() -> None:
    found = planned("2xv5e:2x4")
    assert found.fits and found.moved is not None and found.roof is not None
    assert found.mesh == {"replica": 2, "data": 2, "fsdp": 4} and found.chips == 16
    network = [m for m in found.moved if m.network]
    assert network and {m.axis for m in network} == {"replica"}
    assert all("replica" not in m.axis for m in found.moved if not m.network)
    # Every gradient has to cross once.
    assert sum(m.bytes for m in network) >= found.kinds["parameters"] / 2
    assert found.roof.seconds["network"] > 0


def test_keeping_more_computes_less_and_needs_more() -> None:
    full, kept = planned(), planned(remat="mlp_out")
    assert full.compiled_flops is not None and kept.compiled_flops is not None
    assert kept.compiled_flops < full.compiled_flops and kept.temporaries > full.temporaries
    assert kept.model_flops == full.model_flops


def test_json_has_the_keys_that_scripts_rely_on() -> None:
    found = planned().as_json()
    assert list(found) == [
        "topology", "chips", "mesh", "params", "bytes", "flops", "collectives", "mfu_bound", "fits", "compile_s",
    ]  # fmt: skip
    assert (found["topology"], found["chips"], found["mesh"]) == ("v5e:2x4", 8, {"data": 2, "fsdp": 4})
    assert set(found["bytes"]) == {"arguments", "temporaries", "peak", "capacity"}
    assert set(found["flops"]) == {"compiled", "model"}
    assert all(set(c) == {"kind", "axis", "count", "bytes"} for c in found["collectives"]) and found["collectives"]
    assert found["fits"] is True and 0 < found["mfu_bound"] < 1


class Refused:
    """A traced step whose compilation ends with `message`."""

    def __init__(self, step: Any, message: str):
        self.step, self.message = step, message

    def trace(self, *arguments: Any) -> "Refused":
        self.jaxpr = self.step.trace(*arguments).jaxpr
        return self

    def lower(self) -> "Refused":
        return self

    def compile(self) -> None:
        raise jax.errors.JaxRuntimeError(self.message)


def refuse(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(run: Any) -> tuple[Any, ...]:
        state, batch, seed, step = abstract_step(run)
        return state, batch, seed, Refused(step, message)

    monkeypatch.setattr(compiling, "abstract_step", refused)


# What XLA says of a step that it cannot place, and of one that it has placed beyond the end. For a small step with far
# too large a batch it needs minutes to say so.
TEMPORARIES = """RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for \
HLO temporaries (56.67G) exceeds available HBM (15.75G). HLO module: jit_step."""
USED = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.61G of 15.75G hbm. Exceeded by 4.86G."


@pytest.mark.parametrize(("message", "size", "arguments"), [(TEMPORARIES, 56.67, True), (USED, 20.61, False)])
def test_out_of_memory_is_a_result_with_the_largest_arrays(
    message: str, size: float, arguments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(message, monkeypatch)
    # Deep enough that what the layers keep is among the largest.
    deep = CLIP | {"remat": "full", "image": CLIP["image"] | {"depth": 8}}
    found = plan(small_clip(model=deep), describe("v5e:2x4"))
    assert not found.fits and found.compiled_flops is None and found.mfu_bound is None
    assert found.peak == int(size * 2**30) + (found.arguments if arguments else 0) > found.capacity
    assert found.temporaries == found.peak - found.arguments
    assert found.buffers[0].bytes >= found.buffers[-1].bytes > 0
    # A stack over the layers of what the backward pass reads again: bfloat16, split over eight chips.
    stacks = [buffer for buffer in found.buffers if buffer.shape == f"bfloat16[8,{BATCH},17,256]"]
    assert stacks and stacks[0].bytes == 8 * BATCH * 17 * 256 * 2 // CHIPS
    account = found.as_json()
    assert account["fits"] is False and account["flops"]["compiled"] is None and account["buffers"]
    assert "does not fit" in memory_picture(found, "a run")


def test_another_refusal_of_the_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse("INTERNAL: no\nsuch luck", monkeypatch)
    with pytest.raises(UserError, match="refused the step: INTERNAL: no such luck"):
        plan(small_clip(), describe("v5e:2x4"))


def test_it_needs_neither_weights_nor_a_tokenizer() -> None:
    config = small_clip(init="no/such/directory", processor={"tokenizer": "no/such/directory"})
    run = setup(config, abstract=True, devices=describe("v5e:2x4").devices)
    assert run.processor.tokenizer is None and run.source is None
