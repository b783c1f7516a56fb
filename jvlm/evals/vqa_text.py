"""The official VQA accuracy (arXiv:1505.00468, section 4, and its published evaluation code): texts made comparable,
then agreement with at least three of the other annotators.

What the published code does beyond the paper is kept, or scores could not be compared: only predictions lose articles
and get digits, since published answers have lost them already; answers on which all annotators agree are not touched.
"""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = {"a", "an", "the"}
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"\d,\d")
PERIODS = 32
"""How many periods go: the published code hands a flag of this value to an argument that counts."""


def _contractions() -> dict[str, str]:
    """What a contraction reads when one of its apostrophes is missing, to the contraction."""
    table = {}
    for word in _CONTRACTED.split():
        for at, character in enumerate(word):
            if character == "'":
                table[word[:at] + word[at + 1 :]] = word
    table["somebody'd"] = "somebodyd"  # the other way round, as published
    return table


CONTRACTIONS = _contractions()


def strip_punctuation(text: str) -> str:
    """`text` without punctuation: a mark beside a space, or any mark where a number has a comma, goes without trace;
    other marks leave a space. Periods go unless a digit follows."""
    gone = _COMMA.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        beside = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if beside or gone else " ")
    return _PERIOD.sub("", out, count=PERIODS)


def strip_articles(text: str) -> str:
    """Lower case, number words as digits, without articles, contractions with their apostrophes."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalize_answer(text: str) -> str:
    """A prediction as it is compared."""
    return strip_articles(strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over annotators of min(1, matches among the others / 3), in 0..1; `answers` has one text an annotator."""
    said = normalize_answer(prediction)
    given = list(answers) if len(set(answers)) == 1 else [strip_punctuation(a) for a in answers]
    matches = sum(answer == said for answer in given)
    own = [matches - (answer == said) for answer in given]
    return sum(min(1.0, others / 3) for others in own) / len(given)


def simple(text: str) -> str:
    """Lower case, one space between words, no period at the end: what an exact match compares."""
    return " ".join(text.lower().split()).rstrip(".").rstrip()


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers (see `simple`), else 0."""
    return float(simple(prediction) in {simple(answer) for answer in answers})
