"""easy-VQA (Victor Zhou, MIT), from the package of that name: drawn shapes and short questions about them."""

import json
from pathlib import Path

from jvlm.core.errors import ConfigError, UserError
from jvlm.data.chat import assistant_message, user_message
from jvlm.data.conversations import Conversation
from jvlm.data.sources import digest

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
TYPES = {"yes_no": ("no", "yes"), "shape": SHAPES, "colour": COLOURS}
"""The three types of question and what may be answered to each."""


class EasyVqaSource:
    """Questions of `split` ("train": 38,575 about 4,000 pictures; "test": 9,673 about 1,000), those of `types`.

    `prompt` has `{}` where the question goes. `extra` has `question_type` (a key of `TYPES`), `answers` and `choices`.
    Needs the `demo` extra; UserError says so.
    """

    def __init__(self, split: str = "train", types: tuple[str, ...] | list[str] = tuple(TYPES), prompt: str = "{}"):
        if split not in ("train", "test"):
            raise ConfigError(f"easy_vqa has no split {split!r}; valid names: train, test")
        if unknown := [kind for kind in types if kind not in TYPES]:
            raise ConfigError(f"easy_vqa has no questions of type {unknown[0]!r}; valid names: {', '.join(TYPES)}")
        try:
            import easy_vqa
        except ImportError as error:
            raise UserError('easy-vqa is not installed: pip install "jvlm[demo]"') from error
        self.folder = Path(str(easy_vqa.__file__)).parent / "data" / split
        self.split, self.types, self.prompt = split, tuple(types), prompt
        asked = json.loads((self.folder / "questions.json").read_text())
        self.questions = [(q, a, i, _type(a)) for q, a, i in asked if _type(a) in self.types]
        self.sample_bytes = 500

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Conversation:
        question, answer, image, kind = self.questions[index]
        messages = [user_message(self.prompt.replace("{}", question), pictures=1), assistant_message(answer)]
        extra = {"question_type": kind, "answers": [answer], "choices": list(TYPES[kind])}
        return Conversation(messages, [self.folder / "images" / f"{image}.png"], f"{self.split}:{index}", extra)

    def fingerprint(self) -> str:
        """Changes with the questions taken and the prompt."""
        return digest("easy_vqa", self.split, self.questions, self.prompt)


def _type(answer: str) -> str:
    return next(kind for kind, answers in TYPES.items() if answer in answers)
