"""Scores on answerers whose score is known: official VQA accuracy, likelihoods, blind columns, intervals."""

import math
from typing import Any

import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.evals import EVALUATORS
from jvlm.evals.answerer import Answerer, Prompt
from jvlm.evals.questions import read_questions
from jvlm.evals.vqa_text import CONTRACTIONS, exact_match, normalize_answer, strip_punctuation, vqa_accuracy
from tests.data.dialogues import Talks, conversation

COLOURS = ("red", "green", "blue", "teal")


@pytest.mark.parametrize(
    ("said", "compared"),
    [
        ("The cat", "cat"),
        ("  A\tbig\ndog ", "big dog"),
        ("Two.", "2"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("yes, it is", "yes it is"),  # a mark beside a space goes without trace
        ("black/white", "black white"),  # elsewhere it leaves a space
        ("1,000", "1000"),
        ("1,000-2", "10002"),  # with a comma in a number every mark goes without trace
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldntve"),  # two apostrophes missing: not in the published table
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),  # as published
        ("it's 12:30", "it's 12:30"),
        ("wow!", "wow"),
        ("", ""),
        ("." * 40, "." * 8),  # as published: 32 periods at most
    ],
)
def test_answers_are_normalized_as_the_official_evaluation_does(said, compared):
    assert normalize_answer(said) == compared


def test_the_contractions_are_the_published_ones():
    assert len(CONTRACTIONS) == 114
    assert all(k == k.lower() and k != v for k, v in CONTRACTIONS.items())
    for missing, whole in (
        ("'ow'sat", "'ow's'at"),
        ("y'alld've", "y'all'd've"),
        ("twas", "'twas"),
        ("shed've", "she'd've"),
    ):
        assert CONTRACTIONS[missing] == whole


def test_accuracy_is_agreement_with_three_of_the_other_nine():
    def ten(*counted: tuple[str, int]) -> list[str]:
        return [answer for answer, count in counted for _ in range(count)]

    assert vqa_accuracy("red", ten(("red", 10))) == 1
    assert vqa_accuracy("blue", ten(("red", 10))) == 0
    # One annotator of ten: nine leave-one-outs see one match, that of the annotator sees none.
    assert vqa_accuracy("blue", ten(("red", 9), ("blue", 1))) == pytest.approx(9 * (1 / 3) / 10)
    assert vqa_accuracy("blue", ten(("red", 8), ("blue", 2))) == pytest.approx((8 * 2 / 3 + 2 * 1 / 3) / 10)
    assert vqa_accuracy("blue", ten(("red", 7), ("blue", 3))) == pytest.approx((7 + 3 * 2 / 3) / 10)
    assert vqa_accuracy("blue", ten(("red", 6), ("blue", 4))) == 1
    # Marks leave the annotators' answers only where they disagree; articles and numbers leave the prediction's only.
    assert vqa_accuracy("black/white", ten(("black/white", 9), ("x", 1))) == 1
    assert vqa_accuracy("black/white", ten(("black/white", 10))) == 0
    assert vqa_accuracy("The two", ten(("2", 10))) == 1
    assert vqa_accuracy("two", ten(("two", 10))) == 0
    assert strip_punctuation("a, b") == "a b"


def test_exact_match_forgives_case_white_space_and_a_period():
    assert exact_match(" A  Cat.\n", ["x", "a cat"]) == 1
    assert exact_match("cats", ["cat"]) == 0


def questions(count: int = 40, annotators: int = 1) -> Talks:
    """Question i is about picture i // 2, whose colour is its number's; half of them ask for the shape instead."""
    made = []
    for i in range(count):
        colour = COLOURS[(i // 2) % 4]
        answer, kind = (colour, "colour") if i % 2 == 0 else ("square", "the shape")
        choices = list(COLOURS) if i % 2 == 0 else ["square", "circle"]
        extra: dict[str, Any] = dict(question_type=kind, choices=choices, answers=[answer] * annotators)
        talk = conversation(kind, answer, key=f"k{i}", **extra)
        made.append(talk._replace(images=[f"{i // 2}-{colour}.png"]))
    return Talks(made)


class Sighted:
    """Names the colour in a picture's name, says "red" without one, and takes every shape for a square."""

    vocab_size = 100

    def __init__(self):
        self.asked: list[Prompt] = []

    def _answer(self, prompt: Prompt) -> str:
        self.asked.append(prompt)
        if "shape" in prompt.messages[-1]["content"][-1]["text"]:
            return "Square."
        return str(prompt.pictures[0]).partition("-")[2].removesuffix(".png") if prompt.pictures else "red"

    def generate(self, prompts, max_new_tokens):
        return [self._answer(p) for p in prompts]

    def loglikelihood(self, prompts, continuations):
        hits = [self._answer(p).strip(".").lower() == c for p, c in zip(prompts, continuations)]
        counts = np.asarray([len(c) for c in continuations], np.int64)
        return np.where(hits, -0.5, -2.0) * counts, counts


@pytest.mark.parametrize("name", ["vqa_accuracy", "exact_match", "multiple_choice"])
def test_a_model_that_sees_stands_above_both_blind_columns(name):
    model = Sighted()
    assert isinstance(model, Answerer)
    fields = {"per": "token"} if name == "multiple_choice" else {}
    data = questions(annotators=10 if name == "vqa_accuracy" else 1)
    scores = EVALUATORS[name](data=data, **fields)(model)
    assert sorted(scores) == ["accuracy", "accuracy_colour", "accuracy_the_shape"]
    colour = scores["accuracy_colour"]
    assert (colour.value, colour.n) == (1, 20)
    assert colour.removed == 0.25  # "red", right for a fourth of the pictures
    assert colour.blind < 0.5
    assert scores["accuracy_the_shape"].value == scores["accuracy_the_shape"].removed == 1
    assert scores["accuracy"].value == 1
    assert scores["accuracy"].removed == pytest.approx(0.625)
    assert 0.8 < scores["accuracy"].low < scores["accuracy"].high == 1
    chance = {"multiple_choice": (0.25, 0.5)}.get(name, (0.25, 1.0))
    assert (colour.chance, scores["accuracy_the_shape"].chance) == chance
    assert scores["accuracy"].chance == pytest.approx(sum(chance) / 2)
    assert set(colour.to_dict()) == {"value", "low", "high", "chance", "blind", "n", "removed"}


def test_blind_questions_keep_their_words_and_lose_their_own_pictures():
    asked = read_questions(questions())
    for own, other, none in zip(asked.prompts, asked.shuffled(), asked.removed()):
        assert own.messages == other.messages
        assert own.pictures != other.pictures
        assert len(other.pictures) == 1
        assert not none.pictures
        assert none.messages[-1]["content"] == own.messages[-1]["content"][1:]
    moved = [p.pictures for p in asked.shuffled()]
    assert moved[0::2] == moved[1::2]  # two questions about a picture get the same other one
    assert len(set(moved)) == 20


def test_questions_about_one_picture_stand_or_fall_together():
    class Odd(Sighted):
        def _answer(self, prompt):
            return "square" if prompt.pictures and int(str(prompt.pictures[0]).partition("-")[0]) % 2 else "no"

    asked = [t for t in questions(80).made if t.extra["question_type"] != "colour"]

    def scored(each: int):
        made = [t._replace(images=[f"{i // each}-x.png"]) for i, t in enumerate(asked)]
        return EVALUATORS["exact_match"](data=Talks(made))(Odd())["accuracy"]

    together, alone = scored(10), scored(1)
    assert together.value == alone.value == 0.5
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_choices_are_compared_as_asked_and_ties_do_not_count():
    class Short(Sighted):
        def loglikelihood(self, prompts, continuations):
            counts = np.asarray([len(c) for c in continuations], np.int64)
            return -1.0 * counts, counts

    data = questions()
    by_choice = EVALUATORS["multiple_choice"](data=data)(Short())
    by_token = EVALUATORS["multiple_choice"](data=data, per="token")(Short())
    assert by_choice["accuracy_colour"].value == 0.25  # "red" is the shortest
    assert by_choice["accuracy_the_shape"].value == 0  # as long as "circle"
    assert by_token["accuracy"].value == 0
    with pytest.raises(ConfigError, match="per 'word' is unknown"):
        EVALUATORS["multiple_choice"](data=data, per="word")
    with pytest.raises(UserError, match="k0: no right choice"):
        EVALUATORS["multiple_choice"](data=data, choices=["x", "y"])(Short())


def test_perplexity_is_that_of_all_tokens_together():
    scores = EVALUATORS["perplexity"](data=questions())(Sighted())
    assert scores["perplexity_the_shape"].value == pytest.approx(math.exp(0.5))
    assert scores["perplexity_colour"].value == pytest.approx(math.exp(0.5))
    removed = scores["perplexity_colour"].removed  # three letters of "red" are likely, 5 + 4 + 4 are not
    assert removed == pytest.approx(math.exp((3 * 0.5 + 13 * 2) / 16))
    assert scores["perplexity"].chance == 100
    assert scores["perplexity"].low <= scores["perplexity"].value <= scores["perplexity"].high


def test_a_part_of_the_questions_is_drawn_evenly_and_by_type():
    drawn = read_questions(questions(), limit=10)
    assert len(drawn) == 10
    assert drawn.keys == read_questions(questions(), limit=10).keys != tuple(f"k{i}" for i in range(10))
    assert set(read_questions(questions(), types=["colour"]).types) == {"colour"}
    assert read_questions({"name": "easy_vqa", "split": "test", "types": ["shape"]}, limit=3).answers[0][0]
    with pytest.raises(UserError, match="no questions of type size"):
        read_questions(questions(), types=["size"])
    unanswered = questions(2)
    unanswered.made[1] = unanswered.made[1]._replace(messages=unanswered.made[1].messages[:1], extra={})
    with pytest.raises(UserError, match="k1: a question without an answer"):
        read_questions(unanswered)
    assert read_questions(questions(), by="missing").types == ("",) * 40
