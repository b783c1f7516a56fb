"""Scores of painted pictures where the right answer is known, and pictures that batches and devices do not change."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.core.sharding import make_mesh
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import clip_tokenizer
from jvlm.evals.clip_score import ClipScore, prompt_ranks, prompt_scores
from jvlm.evals.metrics import shuffled
from jvlm.evals.painter import How, Painter
from tests.evals import tiny
from tests.models_util import initialize
from tests.models_util import tiny as tiny_model


class Shows(Painter):
    """A judge that knows every text by its number, and a painter whose pictures hold that number."""

    def __init__(self, count: int, right: float) -> None:
        self.count, self.right = count, right
        self.judge: Any = lambda directory: self

    def paint(self, texts: Sequence[str], how: How) -> np.ndarray:
        shown = np.arange(len(texts))
        wrong = shown >= self.right * len(texts)
        number = np.where(wrong, (shown + 1) % len(texts), shown).astype(np.uint8)
        return np.broadcast_to(number[:, None, None, None], (len(texts), 2, 2, 3))

    def images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return np.eye(self.count, dtype=np.float32)[[int(picture[0, 0, 0]) for picture in pictures]]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(self.count, dtype=np.float32)


def test_scores_say_how_many_pictures_show_their_prompt() -> None:
    evaluator = ClipScore(judge="clip", data=tiny.memory(40), candidates=20)
    scores = evaluator(Shows(40, 0.75))
    assert scores["clip_score"].value == scores["prompt_r1"].value == 0.75
    # Each wrong picture shows another prompt entirely.
    assert scores["clip_score"].chance == pytest.approx(0.25 / 39)
    margin = scores["clip_score_margin"]
    assert margin.value == pytest.approx(0.75 - 0.25 / 39)
    assert 0 < margin.low < margin.value < margin.high
    assert abs(margin.blind) < 0.1 and margin.chance == 0
    assert scores["prompt_r1"].chance == pytest.approx(1 / 20) and scores["prompt_r10"].chance == pytest.approx(0.5)
    assert scores["prompt_r1"].blind <= 0.1
    assert scores["prompt_r1"].low < 0.75 < scores["prompt_r1"].high
    assert all(score.n == 40 for score in scores.values())


def test_no_better_than_chance_has_a_margin_whose_interval_holds_zero() -> None:
    similarity = np.random.default_rng(3).normal(size=(60, 60)) * 0.1
    scores = prompt_scores(similarity, 60, (1, 10))
    assert scores["clip_score_margin"].low < 0 < scores["clip_score_margin"].high
    assert scores["prompt_r10"].low < 1 / 6 < scores["prompt_r10"].high


def test_a_tie_counts_against_the_picture_and_candidates_come_in_parts() -> None:
    ranks, sizes = prompt_ranks(np.ones((5, 5)), 3)
    assert ranks.tolist() == [2, 2, 2, 1, 1] and sizes.tolist() == [3, 3, 3, 2, 2]


def test_prompts_are_the_distinct_captions_evenly_spaced() -> None:
    data = tiny.memory(10)
    every = ClipScore(judge="clip", data=data).prompts()
    assert every == tuple(sample.captions[0] for sample in data.samples)
    assert ClipScore(judge="clip", data=data, limit=4).prompts() == tuple(every[at] for at in (0, 3, 6, 9))
    with pytest.raises(UserError, match="a comparison takes two"):
        ClipScore(judge="clip", data=tiny.memory(1)).prompts()
    with pytest.raises(ConfigError, match="at least 2"):
        ClipScore(judge="clip", data=data, limit=1)


@pytest.fixture(scope="module")
def painting() -> tuple[Any, Any, Processor]:
    text = dict(vocab_size=49408, length=8, width=16, depth=1, num_heads=2, mlp_dim=16, eos_id=49407)
    config = tiny_model("latent-diffusion", text=text, unet=dict(context_dim=16), schedule=dict(kind="cosine"))
    model, variables, _ = initialize(config)
    tokenizer = clip_tokenizer()
    return model, variables, Processor(ImageSpec.siglip(8), TextSpec(length=8, pad_id=tokenizer.pad_id), tokenizer)


def test_a_prompt_s_picture_does_not_depend_on_batches_or_devices(painting: tuple[Any, Any, Processor]) -> None:
    texts = ["a dog", "two words", "a red apple"]
    how = How(steps=2, guidance=2.0)
    one = Painter(*painting, tiny.encoder, batch_size=8).paint(texts, how)
    mesh = make_mesh({"data": -1}, jax.devices())
    many = Painter(*painting, tiny.encoder, mesh, batch_size=8).paint(texts[:2], how)
    assert one.shape == (3, 8, 8, 3) and one.dtype == np.uint8
    assert np.abs(one[:2].astype(int) - many).max() <= 1
    assert np.abs(one[0].astype(int) - one[1]).max() > 1


def test_what_cannot_paint_is_refused(painting: tuple[Any, Any, Processor]) -> None:
    model, variables, processor = painting
    with pytest.raises(UserError, match="paints nothing"):
        Painter(tiny.clip()[0], variables, processor, tiny.encoder)
    with pytest.raises(UserError, match="no tokenizer"):
        Painter(model, variables, Processor(processor.image), tiny.encoder)


def test_the_fixed_shuffle_leaves_hardly_a_picture_its_prompt() -> None:
    assert (shuffled(100) == np.arange(100)).mean() <= 0.03
