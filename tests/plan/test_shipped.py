"""Shipped configurations compile for their kind of chip: here at toy size, in benchmarks/ at full size."""

import pytest

from jvlm.plan.compile import plan
from jvlm.plan.topologies import describe
from jvlm.train.config import load_config
from jvlm.train.setup import setup
from tests.commands import ROOT
from tests.plan.slices import needs_libtpu

pytestmark = needs_libtpu
# A sigmoid, a locked tower, batch statistics; CLIP's step is test_compile's. The full sizes are docs/plans.md's.
RUNS = {
    "siglip_so400m14_webli_pretrain.py": "v5e:2x2",
    "lit_g14_laion_pretrain.py": "v5e:2x2",
    "align_b7_laion_pretrain.py": "v5e:2x2",
}


@pytest.mark.parametrize(("name", "topology"), RUNS.items())
def test_a_step_of_the_toy_run_compiles_and_fits(name: str, topology: str) -> None:
    found = plan(load_config(f"{ROOT / 'configs' / name}:tiny"), describe(topology))
    assert found.fits
    assert found.compiled_flops is not None and found.compiled_flops >= found.model_flops > 0


def test_a_learned_context_needs_no_tokenizer_to_be_planned() -> None:
    overrides = ["adapter={'kind': 'coop', 'context': 4}", "processor.tokenizer=nowhere"]
    run = setup(
        load_config("clip_l14_laion_pretrain.py", overrides), abstract=True, devices=describe("v5e:16x16").devices
    )
    assert run.params["text_tower"]["token_embed"]["embedding"].rows.shape == (4, 768)
