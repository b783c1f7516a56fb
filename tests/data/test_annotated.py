"""Prompts, weights in the loss and a label's samples alone are said of any source, and a mixture keeps its shares."""

import numpy as np
import pytest

from jvlm.core.errors import ConfigError
from jvlm.data.image_spec import ImageSpec
from jvlm.data.pipeline import make_train_iterator
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import clip_tokenizer
from jvlm.train.data import make_source

KIN = dict(name="emoji", split="concepts", captions="name")


def test_subject_and_class_share_a_batch_with_their_weights() -> None:
    label = make_source(KIN)[0].label
    subject = dict(KIN, label=label, prompts=["a <toy>"], weight=1)
    kin = dict(KIN, prompts=["a picture of a {}"], loss_weight=0.25, weight=1)
    source = make_source(dict(mixture=[subject, kin]))
    tokenizer = clip_tokenizer()
    text = TextSpec(length=16, pad_id=tokenizer.pad_id, words=("<toy>",))
    processor = Processor(ImageSpec.siglip(8), text, tokenizer)
    batches = make_train_iterator(source, processor, batch_size=8, seed=0)
    for _ in range(2):
        batch = next(batches)
        taught = (batch["tokens"] == -1).any(-1)
        assert taught.sum() == 4
        np.testing.assert_array_equal(batch["weight"], np.where(taught, 1.0, 0.25).astype(np.float32))
    batches.close()
    names = {make_source(KIN)[index].captions[0] for index in range(len(make_source(KIN)))}
    said = source[len(make_source({k: v for k, v in subject.items() if k != "weight"}))].captions
    assert said[0].removeprefix("a picture of a ") in names


def test_what_is_said_is_part_of_the_fingerprint_and_must_make_sense() -> None:
    plain = make_source(KIN)
    marks = {make_source(dict(KIN, **said)).fingerprint() for said in (dict(prompts="x"), dict(loss_weight=0.5))}
    assert len({plain.fingerprint(), *marks}) == 3
    with pytest.raises(ConfigError, match="no sample has that label"):
        make_source(dict(KIN, label=-5))
    with pytest.raises(ConfigError, match="give more than 0"):
        make_source(dict(KIN, loss_weight=0))
