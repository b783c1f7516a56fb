"""The templates of our own: what is learnt, what a picture leaves, and that a prompt begins what was learnt."""

import pytest
from tokenizers import Tokenizer

from jvlm.core.errors import ConfigError, UserError
from jvlm.data.added_tokens import with_special_token
from jvlm.data.chat import assistant_message, read_template, user_message
from jvlm.data.chat_templates import TEMPLATES, named, with_template
from jvlm.data.tokenizer_json import JsonTokenizer
from tests.data.dialogues import tokenizer_files
from tests.data.templates import text

TALK = [user_message("what?", 1), assistant_message("red"), user_message("sure?"), assistant_message("yes")]
RENDERED = {
    "plain": "<image>what?red</s>sure?yes</s>",
    "question_answer": "<image>Question: what? Answer: red</s>Question: sure? Answer: yes</s>",
    "short": "<image>what? red</s>sure? yes</s>",
    "short_started": "<s><image>what? red</s>sure? yes</s>",
    "vicuna": "USER: <image>\nwhat? ASSISTANT: red</s>USER: sure? ASSISTANT: yes</s>",
    "chatml": "<|im_start|>user\n<image>what?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
    "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n",
    "flamingo": "<image>what?red</s>sure?yes</s>",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_ends_are_learnt_and_prompts_begin_them(name):
    template = named(name, "</s>", bos_token="<s>")
    assert template.has_image_slot
    rendered, spans = template.render_answers(TALK)
    assert rendered == RENDERED[name]
    end = "<|im_end|>" if name == "chatml" else "</s>"
    assert [rendered[a:b] for a, b in spans] == ["red" + end, "yes" + end]
    for turns in (1, 3):
        assert rendered.startswith(template.render(TALK[:turns], add_generation_prompt=True))


def test_every_text_of_a_document_ends_its_chunk():
    parts = [{"type": "image"}, text("a cat"), {"type": "image"}, text("a dog")]
    rendered, spans = named("flamingo", "<|endofchunk|>").render_answers([{"role": "assistant", "content": parts}])
    assert rendered == "<image>a cat<|endofchunk|><image>a dog<|endofchunk|>"
    assert [rendered[a:b] for a, b in spans] == ["a cat<|endofchunk|>", "a dog<|endofchunk|>"]


def test_an_unknown_template_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'vicuna'"):
        named("vicunna", "</s>")


def test_a_token_for_pictures_is_added_once_behind_the_vocabulary():
    files, number = with_special_token(tokenizer_files(), "<picture>")
    assert number == 259
    again, same = with_special_token(files, "<picture>")
    assert (again, same) == (files, number)
    ours = JsonTokenizer(files)
    ids, spans = ours.spans("a<picture>\nb")
    assert ids[1] == number == ours.vocab_size - 1
    assert spans[1] == (1, 10)
    assert Tokenizer.from_str(files["tokenizer.json"].decode()).encode("a<picture>\nb").ids == ids
    assert ours.decode(ids) == "a\nb"
    assert JsonTokenizer(tokenizer_files()).spans("a\nb")[0] == [ids[0], *ids[2:]]
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        with_special_token({"vocab.txt": b""}, "<picture>")


def test_a_template_put_into_a_tokenizer_s_files_is_the_one_that_is_read():
    files = with_template(tokenizer_files(), "short")
    template = read_template(files)
    assert template is not None and template.has_image_slot
    talk = [user_message("what?", 1), assistant_message("red")]
    text, answers = template.render_answers(talk)
    assert text == "<image>what? red<|im_end|>"
    assert [text[slice(*span)] for span in answers] == ["red<|im_end|>"]
