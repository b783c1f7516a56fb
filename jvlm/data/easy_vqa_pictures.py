"""easy-VQA's pictures with captions, put together from what its training questions tell of them."""

import re
from collections.abc import Iterator

from jvlm.core.errors import ConfigError
from jvlm.data.easy_vqa import COLOURS, SHAPES, EasyVqaSource
from jvlm.data.sources import Sample, digest

_SAYS_NO = re.compile(r"\b(no|not)\b")


class EasyVqaPictures:
    """The pictures of `split` whose colour and shape its questions and answers give away, captioned "a teal circle".

    `label` numbers the captions and `extra["caption"]` is the caption, to group by. Needs the `demo` extra; UserError
    says so.
    """

    def __init__(self, split: str = "train"):
        asked = EasyVqaSource(split)
        known: dict[int, set[str]] = {}
        for question, answer, image, _ in asked.questions:
            known.setdefault(image, set()).update(told(question, answer))
        self.split, self.folder, self.sample_bytes = split, asked.folder, 500
        self.pictures: list[tuple[int, str]] = []
        for image, words in sorted(known.items()):
            colours, shapes = words & set(COLOURS), words & set(SHAPES)
            if len(colours) > 1 or len(shapes) > 1:
                raise ConfigError(f"easy_vqa {split}: picture {image} is told to be {sorted(words)}")
            if colours and shapes:
                self.pictures.append((image, f"a {colours.pop()} {shapes.pop()}"))
        self.captions = sorted({caption for _, caption in self.pictures})

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        image, caption = self.pictures[index]
        data = (self.folder / "images" / f"{image}.png").read_bytes()
        number = self.captions.index(caption)
        return Sample(data, [caption], number, f"{self.split}:{image}", {"caption": caption})

    def fingerprint(self) -> str:
        """Changes with the pictures and their captions."""
        return digest("easy_vqa_pictures", self.split, self.pictures)


def told(question: str, answer: str) -> Iterator[str]:
    """The colours and shapes that a question with its answer says are in the picture."""
    words = re.findall(r"[a-z]+", question.lower())
    named = [word for word in words if word in COLOURS or word in SHAPES]
    if answer not in ("yes", "no"):
        yield from (*named, answer)
    elif (answer == "yes") != bool(_SAYS_NO.search(question.lower())):
        yield from named
