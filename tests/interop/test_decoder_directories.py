"""A language model's directory: the format that says all is chosen, and what jvlm does not interpret is kept."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import jvlm
from jvlm.core.errors import UserError
from jvlm.data.processor import Processor
from jvlm.interop.pretrained import Pretrained
from tests.generate.references import pair
from tests.models.decoders import KINDS, kind
from tests.reference import transformers

TYPES = {"llama": "llama", "mistral": "mistral", "gemma2": "gemma2", "opt": "opt", "gpt2": "gpt2"}


@pytest.mark.parametrize("name", TYPES)
def test_a_model_of_our_own_is_written_as_what_describes_it(name: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = dict(eps=1e-5) if name == "opt" else {}
    model, variables = kind(name, **fields)
    ours = Pretrained(model, variables["params"], {}, {"family": "decoder"}, Processor(), {})
    jvlm.save(ours, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == TYPES[name]
    assert jvlm.load(tmp_path / "model").model.resolved() == model.resolved()


def test_a_model_that_no_format_describes_is_refused(tmp_path: Path) -> None:
    model, variables = kind("llama", logit_softcap=2.0)
    with pytest.raises(UserError, match="no transformers format"):
        jvlm.save(
            Pretrained(model, variables["params"], {}, {"family": "decoder"}, Processor(), {}), tmp_path / "model"
        )


@pytest.mark.parametrize("name", ["llama", "t5", "bert decoder"])
def test_generation_settings_and_unread_fields_are_carried_over(name: str, tmp_path: Path) -> None:
    reference = copy.deepcopy(pair(name)[0])
    reference.config.task_specific_params = dict(summarization=dict(num_beams=3))
    reference.generation_config.eos_token_id = [3, 5]
    reference.save_pretrained(tmp_path / "theirs")
    ours = jvlm.load(tmp_path / "theirs")
    assert ours.generation["eos_token_id"] == [3, 5]
    jvlm.save(ours, tmp_path / "ours")
    again = type(reference).from_pretrained(tmp_path / "ours")
    assert again.generation_config.eos_token_id == [3, 5]
    assert again.config.task_specific_params == reference.config.task_specific_params
    assert jvlm.load(tmp_path / "ours").model == ours.model


def test_an_encoder_alone_is_its_own_kind(tmp_path: Path) -> None:
    config: Any = transformers.T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=20, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "theirs")
    ours = jvlm.load(tmp_path / "theirs")
    assert ours.model.decoder_depth == 0
    jvlm.save(ours, tmp_path / "ours")
    cls: Any = transformers.T5EncoderModel
    _, info = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info


def test_every_kind_is_covered() -> None:
    assert TYPES.keys() == KINDS.keys()
