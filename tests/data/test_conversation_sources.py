"""Published layouts of conversations are read as they are published; what is broken is named, nothing is fetched."""

import json
import pickle

import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.data import DATASETS
from jvlm.data.conversations import text_parts
from jvlm.data.easy_vqa import TYPES
from jvlm.data.sources import BadSample
from tests.data import pictures
from tests.data.dialogues import write_json
from tests.data.shards import Memory, samples

IMAGE = {"type": "image"}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


LLAVA = {
    "id": "7",
    "image": "coco/a.png",
    "source": "test",
    "conversations": [
        {"from": "human", "value": "What is this?\n<image>"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "Yes."},
    ],
}
SPOKEN = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [IMAGE, words("and"), {"type": "image", "image": "b.png"}, words("differ how?")]},
        {"role": "assistant", "content": [words("In colour.")]},
    ],
    "images": ["coco/a.png"],
}


def instructions(folder, records, **fields):
    return DATASETS["instructions"](path=write_json(folder / "d.json", records), **fields)


def test_both_layouts_become_messages_in_parts_with_their_pictures(tmp_path):
    source = instructions(tmp_path, [LLAVA, SPOKEN], images=str(tmp_path / "p"))
    one, two = source[0], pickle.loads(pickle.dumps(source))[1]
    assert one.messages == [
        {"role": "user", "content": [words("What is this?"), IMAGE]},
        {"role": "assistant", "content": [words("A cat.")]},
        {"role": "user", "content": [words("Sure?")]},
        {"role": "assistant", "content": [words("Yes.")]},
    ]
    assert (one.images, one.key, one.extra) == ([tmp_path / "p" / "coco" / "a.png"], "7", {"source": "test"})
    assert [m["role"] for m in two.messages] == ["system", "user", "assistant"]
    assert two.messages[1]["content"] == [IMAGE, words("and"), IMAGE, words("differ how?")]
    assert two.images == [tmp_path / "p" / "coco" / "a.png", tmp_path / "p" / "b.png"]
    lines = DATASETS["instructions"](path=write_json(tmp_path / "d.jsonl", [LLAVA, SPOKEN]), images=str(tmp_path / "p"))
    assert lines[1]._replace(key=two.key) == two
    assert lines.fingerprint() == source.fingerprint() != instructions(tmp_path, [LLAVA, LLAVA]).fingerprint()


def test_line_breaks_beside_a_slot_belong_to_it():
    assert text_parts("<image>\nWhat?") == [IMAGE, words("What?")]
    assert text_parts("a\n<image><image>\n\nb\nc") == [words("a"), IMAGE, IMAGE, words("b\nc")]
    assert text_parts("") == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"image": ["a.png", "b.png"]}, "pictures without a place"),
        ({"image": None}, "pictures without a place"),
        ({"image": "http://x/a.png"}, "picture outside the folder"),
        ({"image": "../a.png"}, "picture outside the folder"),
        ({"image": [3]}, "broken record"),
        ({"conversations": []}, "broken record"),
        ({"conversations": [{"from": "nobody", "value": ""}]}, "broken record"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "empty answer"),
        ({"conversations": [*LLAVA["conversations"][:1], {"from": "gpt", "value": " \n"}]}, "empty answer"),
        ({"conversations": None, "messages": [{"role": "user", "content": [{"type": "video"}]}]}, "broken record"),
    ],
)
def test_records_that_make_no_conversation_are_bad_samples_by_cause(tmp_path, change, cause):
    source = instructions(tmp_path, [LLAVA, {k: v for k, v in {**LLAVA, **change}.items() if v is not None}])
    with pytest.raises(BadSample, match=r"^d\.json: record 2: ") as error:
        source[1]
    assert error.value.cause == cause
    assert source[0].key == "7"


def test_broken_files_are_named_with_what_is_wrong(tmp_path):
    for name, text, said in (
        ("a.json", "[1]", "record 1 is not a JSON object"),
        ("b.json", "{}", "expected a list of records, found a JSON dict"),
        ("c.json", "[", r"c\.json: not JSON"),
        ("d.jsonl", '{"a": 1}\n{', "line 2 is not JSON"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said):
            DATASETS["instructions"](path=str(tmp_path / name))
    with pytest.raises(UserError, match="no such file"):
        DATASETS["instructions"](path=str(tmp_path / "gone.json"))


def vqa_files(folder, other="no", known=2):
    asked = [
        {"question_id": 9, "image_id": 42, "question": "What colour?"},
        {"question_id": 8, "image_id": 1, "question": "Why?"},
    ]
    questions = {"data_subtype": "val2014", "questions": asked}
    answer = {"question_id": 9, "image_id": 42, "question_type": "what", "answer_type": "other"}
    ten = [{"answer": "red" if i else "dark red", "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)]
    found = [answer | {"multiple_choice_answer": "red", "answers": ten}]
    found += [{"question_id": 8, "multiple_choice_answer": other, "answers": []}]
    found = found[:known]
    return dict(
        questions=write_json(folder / "q.json", questions),
        annotations=write_json(folder / "a.json", {"annotations": found}),
        images=str(folder),
    )


def test_vqa_as_published(tmp_path):
    source = DATASETS["vqa_v2"](**vqa_files(tmp_path), prompt="{}\nOne word.")
    one = source[0]
    assert one.messages[0]["content"] == [IMAGE, words("What colour?\nOne word.")]
    assert one.messages[1]["content"] == [words("red")]
    assert one.images == [tmp_path / "COCO_val2014_000000000042.jpg"]
    assert one.extra["answers"] == ["dark red"] + ["red"] * 9
    assert (one.extra["question_type"], one.extra["answer_type"], one.extra["question_id"]) == ("what", "other", 9)
    blank = DATASETS["vqa_v2"](**vqa_files(tmp_path, other=""))
    with pytest.raises(BadSample, match="question 8: an empty answer"):
        blank[1]
    fields = vqa_files(tmp_path, known=1)
    with pytest.raises(UserError, match="no annotation of question 8"):
        DATASETS["vqa_v2"](**fields)
    unanswered = DATASETS["vqa_v2"](questions=fields["questions"], images=fields["images"])
    assert [m["role"] for m in unanswered[1].messages] == ["user"]
    with pytest.raises(UserError, match="no 'data_subtype' in it"):
        DATASETS["vqa_v2"](questions=fields["annotations"], images=str(tmp_path))


def test_coco_captions_as_published(tmp_path):
    values = {
        "images": [
            {"id": 5, "file_name": "5.png"},
            {"id": 3, "file_name": "3.png"},
            {"id": 1, "file_name": "x"},
        ],
        "annotations": [
            {"id": 2, "image_id": 5, "caption": " second "},
            {"id": 1, "image_id": 5, "caption": "first"},
            {"id": 3, "image_id": 3, "caption": "third"},
        ],
    }
    (tmp_path / "5.png").write_bytes(pictures.encode(pictures.photo(8, 8)))
    path = write_json(tmp_path / "captions.json", values)
    source = DATASETS["coco_captions"](annotations=path, images=str(tmp_path))
    assert len(source) == 2
    assert (source[1].captions, source[1].key, source[1].extra) == (["first", "second"], "5.png", {"image_id": 5})
    assert source[1].image.startswith(b"\x89PNG")
    with pytest.raises(BadSample, match=r"picture 3: no picture 3\.png") as error:
        source[0]
    assert error.value.cause == "missing picture"
    values["annotations"][0]["image_id"] = 77
    with pytest.raises(UserError, match="captions of picture 77, which it does not list"):
        DATASETS["coco_captions"](annotations=write_json(tmp_path / "c.json", values), images=str(tmp_path))


def test_interleaved_documents_in_both_layouts(tmp_path):
    documents = [
        {"texts": ["one", None, "two", None], "images": [None, "a.png", None, "b.png"]},
        {"text_list": ["one", "two"], "image_info": [{"image_name": "b.png", "matched_text_index": 1}]},
        {"texts": ["one"], "images": [None, None]},
        {"texts": ["one", "two"], "images": [None, "a.png"]},
        {"texts": [None], "images": ["a.png"]},
        {"text_list": ["one"], "image_info": [{"image_name": "b.png", "matched_text_index": 4}]},
    ]
    source = DATASETS["interleaved"](path=write_json(tmp_path / "d.jsonl", documents))
    assert source[0].messages == [{"role": "assistant", "content": [words("one"), IMAGE, words("two"), IMAGE]}]
    assert source[0].images == [tmp_path / "a.png", tmp_path / "b.png"]
    assert source[1].messages[0]["content"] == [words("one"), IMAGE, words("two")]
    for index, cause in ((2, "broken record"), (3, "broken record"), (4, "empty answer"), (5, "broken record")):
        with pytest.raises(BadSample, match=f"document {index + 1}") as error:
            source[index]
        assert error.value.cause == cause


def test_easy_vqa_has_its_questions_answers_and_types():
    source = DATASETS["easy_vqa"](split="test")
    assert len(source) == 9673
    kinds = {kind: len(DATASETS["easy_vqa"](split="test", types=[kind])) for kind in TYPES}
    assert sum(kinds.values()) == 9673
    assert kinds["yes_no"] > 0.7 * 9673
    one = DATASETS["easy_vqa"](split="test", types=["shape"], prompt="Question: {} Answer:")[0]
    assert one.extra["choices"] == ["circle", "rectangle", "triangle"]
    assert one.extra["answers"][0] in one.extra["choices"]
    assert one.messages[0]["content"][1]["text"].startswith("Question: what")
    assert one.images[0].exists()
    with pytest.raises(ConfigError, match="no split 'valid'"):
        DATASETS["easy_vqa"](split="valid")
    with pytest.raises(ConfigError, match="no questions of type 'color'"):
        DATASETS["easy_vqa"](types=["color"])


def test_captioned_pictures_become_conversations():
    made = samples(3)
    made[2] = made[2]._replace(captions=[" "])
    source = DATASETS["captioned"](source=Memory(made), prompt="Describe it.")
    assert source[0].messages[0]["content"] == [IMAGE, words("Describe it.")]
    assert source[0].messages[1]["content"][0]["text"] in made[0].captions
    assert source[0].images == [made[0].image]
    with pytest.raises(BadSample, match="no caption"):
        source[2]
    with pytest.raises(ConfigError, match="dataset 'tarr' is unknown"):
        DATASETS["captioned"](source={"name": "tarr"})
    assert json.dumps(source[1].extra) == json.dumps({"answers": made[1].captions})
