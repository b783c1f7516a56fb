"""A conversation as tokens: pictures where they stand, only the answer learnt, nothing cut in silence."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from jvlm.core.errors import UserError
from jvlm.data.chat import ChatTemplate
from jvlm.data.clip_bpe import ClipTokenizer
from jvlm.data.multimodal import TEXT, MultimodalProcessor
from jvlm.data.pictures import picture_size
from jvlm.data.sources import BadSample
from tests.data import pictures
from tests.data.dialogues import conversation, processor
from tests.data.templates import PARTS

IMAGE, END = 258, 257


def decoded(made, ids) -> str:
    return made.tokenizer._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)


def test_a_picture_is_as_many_tokens_as_the_family_says():
    made: Any = processor(tokens=5, max_tiles=2)
    talk = conversation("what?", "red", images=2)
    encoded = made.encode(talk)
    text = made.template.render(talk.messages)
    bare = made.tokenizer.spans(text)[0]
    assert len(encoded.tokens) == len(bare) + 2 * 4
    assert (encoded.tokens == IMAGE).sum() == 10
    assert decoded(made, encoded.tokens) == text.replace("<image>", "<image>" * 5)
    assert encoded.places[encoded.tokens == IMAGE].tolist() == list(range(10))
    assert (encoded.places[encoded.tokens != IMAGE] == TEXT).all()
    assert encoded.tiles == 2


def test_only_the_answer_and_its_end_are_learnt():
    made = processor()
    encoded = made.encode(conversation("what is it?", "a red é"))
    assert decoded(made, encoded.tokens[encoded.answer]) == "a red é<|im_end|>"


def test_an_end_is_added_where_the_template_writes_none():
    made = processor(PARTS)
    encoded = made.encode(conversation("what?", "red"))
    assert encoded.tokens[-1] == END
    assert encoded.answer[-1]
    assert decoded(made, encoded.tokens[encoded.answer]) == "red<|im_end|>"
    assert decoded(made, encoded.tokens[-6:]) == ": red<|im_end|>"


def test_the_start_token_stands_before_every_text_once():
    class Started:
        def __init__(self, inner):
            self.__dict__.update(inner.__dict__)
            self.inner, self.prefix, self.kind = inner, (256,), inner.kind

        def spans(self, text):
            return self.inner.spans(text)

    for source in (PARTS, "{{ bos_token }}" + PARTS):
        made = processor(source)
        object.__setattr__(made, "tokenizer", Started(made.tokenizer))
        tokens = made.encode(conversation("what?", "red")).tokens
        assert tokens[0] == 256
        assert (tokens == 256).sum() == 1


def test_a_prompt_is_the_conversation_up_to_the_answer():
    made = processor()
    talk = conversation("what?", "red")
    asked = talk._replace(messages=talk.messages[:1])
    whole, prompt = made.encode(talk), made.prompt(asked)
    assert whole.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
    assert not prompt.answer.any()
    continued = made.prompt(asked, "red<|im_end|>")
    assert continued.tokens.tolist() == whole.tokens[: len(continued.tokens)].tolist()
    assert decoded(made, continued.tokens[continued.answer]) == "red<|im_end|>"


@pytest.mark.parametrize(
    ("talk", "fields", "cause"),
    [
        (conversation("what?", "red", images=2)._replace(images=[]), {}, "pictures without a place"),
        (conversation("what <image>?", "red"), {}, "pictures without a place"),
        (conversation("what?", "red"), {"pictures": None}, "pictures without a place"),
        (conversation("what?", "red", images=2), {"max_tiles": 1, "length": 90}, "too many pictures"),
        (conversation("what?", "red")._replace(images=["gone.png"]), {}, "missing picture"),
        (conversation("what?", "red")._replace(images=[b"no"]), {}, "corrupt picture"),
        (conversation("what?", "red")._replace(images=[pictures.bomb()]), {}, "oversized picture"),
        (conversation("what?", "red"), {"length": 11}, "image tokens cut"),
        (conversation("what?", "red"), {"length": 20}, "answer cut"),
        (conversation("what?", "red")._replace(messages=conversation("what?", "").messages[:1]), {}, "empty answer"),
        (
            conversation("what?", "red"),
            {"template": "{{ messages[0].content[-1].text }}"},
            "no place in the template",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_learnt_from_is_refused_by_cause(talk, fields, cause):
    made = processor(**{"max_tiles": 2, "length": 60} | fields)
    with pytest.raises(BadSample) as error:
        made.encode(talk._replace(key="k7"))
    assert error.value.cause == cause
    assert str(error.value).startswith("k7: ")


def test_a_long_answer_is_cut_and_still_learnt():
    made = processor(length=44)
    encoded = made.encode(conversation("what?", "red " * 20))
    assert len(encoded.tokens) == len(encoded.answer) == len(encoded.places) == 44
    assert decoded(made, encoded.tokens[encoded.answer]).startswith("red red")


def test_turned_pictures_are_measured_as_they_are_shown():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = pictures.encode(pictures.photo(8, 24), "JPEG", exif=exif.tobytes())
    assert picture_size(turned, "x") == (24, 8)
    assert picture_size(pictures.encode(pictures.photo(8, 24)), "x") == (8, 24)


def test_a_tokenizer_without_spans_is_refused_and_the_fingerprint_sees_changes():
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        MultimodalProcessor(
            tokenizer=ClipTokenizer(), template=ChatTemplate(PARTS), pictures=None, image_id=None, length=8
        )
    prints = {processor(length=n, tokens=t).fingerprint() for n in (8, 9) for t in (1, 2)}
    assert len(prints) == 4
    assert processor().fingerprint() == processor().fingerprint()
    assert np.dtype(np.int32) == processor().encode(conversation("a", "b")).tokens.dtype
