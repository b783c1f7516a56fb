"""VQAv2 and what follows its layout (OK-VQA, VizWiz-like exports): questions, annotations and COCO pictures."""

from typing import Any

from etils import epath

from jvlm.core.errors import UserError
from jvlm.data.chat import assistant_message, user_message
from jvlm.data.conversations import Conversation, picture_file
from jvlm.data.instructions import read_json
from jvlm.data.sources import BadSample, digest

PICTURE = "COCO_{split}_{image_id:012d}.jpg"


class VqaSource:
    """The published `questions` and `annotations` JSON files (arXiv:1612.00837), pictures in the folder `images`.

    Pictures are called as `picture` says, `{split}` being the questions' `data_subtype` ("test-dev2015" is asked about
    the pictures of "test2015"). The answer is the annotation's `multiple_choice_answer`; without `annotations` nothing
    is answered. `prompt` has `{}` where the question goes. `extra` holds the ten `answers`, `question_type`,
    `answer_type` and `question_id`. UserError for files that are not what they are taken for.
    """

    def __init__(
        self, questions: str, images: str, annotations: str | None = None, prompt: str = "{}", picture: str = PICTURE
    ):
        self.path = epath.Path(questions)
        self.folder = epath.Path(images)
        self.prompt, self.picture = prompt, picture
        asked = read_json(self.path)
        self.split = _field(asked, "data_subtype", self.path).replace("test-dev", "test")
        self.questions: list[dict[str, Any]] = _field(asked, "questions", self.path)
        self.annotations: dict[int, dict[str, Any]] | None = None
        if annotations is not None:
            path = epath.Path(annotations)
            self.annotations = {a["question_id"]: a for a in _field(read_json(path), "annotations", path)}
            missing = [q["question_id"] for q in self.questions if q["question_id"] not in self.annotations]
            if missing:
                raise UserError(f"{path}: no annotation of question {missing[0]} and {len(missing) - 1} others")
        self.sample_bytes = 2**16

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Conversation:
        question = self.questions[index]
        number = question["question_id"]
        where = f"{self.path.name}: question {number}"
        name = self.picture.format(split=self.split, image_id=question["image_id"])
        messages = [user_message(self.prompt.replace("{}", question["question"]), pictures=1)]
        extra: dict[str, Any] = {"question_id": number}
        if self.annotations is not None:
            found = self.annotations[number]
            if not str(found.get("multiple_choice_answer", "")).strip():
                raise BadSample(f"{where}: an empty answer", "empty answer")
            messages.append(assistant_message(found["multiple_choice_answer"]))
            extra |= {"answers": [a["answer"] for a in found["answers"]]}
            extra |= {key: found[key] for key in ("question_type", "answer_type") if key in found}
        return Conversation(messages, [picture_file(self.folder, name, where)], str(number), extra)

    def fingerprint(self) -> str:
        """Changes with questions, annotations and the prompt."""
        found = self.annotations and sorted(self.annotations.items())
        return digest("vqa_v2", self.questions, found, self.prompt, self.picture, self.split)


def _field(values: Any, key: str, path: epath.Path) -> Any:
    if not isinstance(values, dict) or not values.get(key):
        raise UserError(f"{path}: no {key!r} in it; expected the file as VQAv2 publishes it")
    return values[key]
