"""A run's configuration makes rows of conversations, and names what it does not know."""

import pytest

from jvlm.core.errors import ConfigError
from jvlm.train.data import make_conversations
from tests.data.dialogues import processor

SHAPES = {"name": "easy_vqa", "split": "test", "types": ["shape"], "prompt": "{} Answer:"}
COLOURS = {"name": "easy_vqa", "split": "test", "types": ["colour"]}


def config(**changes):
    return dict(batch_size=4, seed=1, data=SHAPES, pipeline={"window": 256}) | changes


def test_easy_vqa_becomes_full_rows(tmp_path):
    made = processor(tokens=4, length=512, max_tiles=16)
    fields = config(pipeline={"window": 256, "cache": str(tmp_path), "threads": 1})
    batches = make_conversations(fields, made, 0, {})
    batch = next(batches)
    batches.close()
    assert batch["image_mask"].sum() == batch["segments"].max(1).sum() > 8
    assert batches.facts["utilisation"] > 0.9
    assert batches.facts["samples"] == 1257
    again = make_conversations(fields, made, 4, {})
    assert again.facts == batches.facts
    again.close()


def test_mixtures_of_conversations_and_wrong_options(tmp_path):
    mixture = {"mixture": [SHAPES | {"weight": 1.0}, COLOURS | {"weight": 3.0}]}
    made = processor(tokens=1, length=128, max_tiles=8)
    batches = make_conversations(config(data=mixture), made, 0, {})
    rows = [made.tokenizer.decode(row.tolist()) for row in next(batches)["tokens"]]
    batches.close()
    assert any("col" in row and "Answer:" in row for row in rows)
    with pytest.raises(ConfigError, match="no key 'seed'"):
        make_conversations(config(pipeline={"seed": 1}), made, 0, {})
    with pytest.raises(ConfigError, match="did you mean 'window'"):
        make_conversations(config(pipeline={"windo": 1}), made, 0, {})
