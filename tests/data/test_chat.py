"""Chat templates render as transformers renders them, and tell what of it is the answer."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jvlm.core.errors import UserError
from jvlm.data.chat import ChatTemplate, parts_of, read_template, user_message
from tests.data.templates import CHATML, IN_PARTS, PARTS, PICTURES, SPECIAL, TAGGED, TALK, TEXT

CASES = [(name, TEXT[name], TALK) for name in TEXT] + [(f"{name}, parts", t, PICTURES) for name, t in IN_PARTS.items()]


@pytest.fixture(scope="module")
def theirs():
    made = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


@pytest.mark.parametrize(("source", "talk"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("turns", [1, 2, 4])
@pytest.mark.parametrize("opens", [False, True])
def test_renders_what_transformers_renders(theirs, source, talk, turns, opens):
    tools = [{"name": "look", "at": "<é>"}]
    for values in ({}, {"tools": tools}):
        want = theirs.apply_chat_template(
            talk[:turns], chat_template=source, tokenize=False, add_generation_prompt=opens, **values
        )
        assert ChatTemplate(source, SPECIAL).render(talk[:turns], opens, **values) == want


def test_generation_tags_give_transformers_answer_mask(theirs):
    for source, talk in ((TAGGED, TALK), (PARTS, PICTURES)):
        out = theirs.apply_chat_template(
            talk, chat_template=source, return_dict=True, return_assistant_tokens_mask=True, return_tensors=None
        )
        said = theirs.decode([t for t, m in zip(out["input_ids"], out["assistant_masks"]) if m])
        text, spans = ChatTemplate(source, SPECIAL).render_answers(talk)
        assert "".join(text[a:b] for a, b in spans) == said
        assert "Nothing.<|im_end|>" in said or "Quite sure. " in said


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("chatml", ["It's a café, 日本.<|im_end|>", "Nothing.<|im_end|>"]),
        ("instruct", [" It's a café, 日本.<|im_end|>", " Nothing.<|im_end|>"]),
        ("tagged", ["It's a café, 日本.<|im_end|>", "Nothing.<|im_end|>"]),
        ("both", ["It's a café, 日本.<|im_end|>", "Nothing.<|im_end|>"]),
    ],
)
def test_answers_end_with_their_end_token_and_hold_nothing_else(name, answers):
    text, spans = ChatTemplate(TEXT[name], SPECIAL).render_answers(TALK)
    assert [text[a:b] for a, b in spans] == answers


def test_a_template_that_rewrites_history_is_not_guessed_at():
    rewriting = "{% for m in messages %}{{ m.role }}{% if loop.last %}!{% endif %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="turn 2 differently"):
        ChatTemplate(rewriting).render_answers(TALK)


def test_what_a_template_takes_is_found_out():
    assert [ChatTemplate(t).takes_parts for t in (CHATML, TAGGED, PARTS, IN_PARTS["both"])] == [
        False,
        False,
        True,
        True,
    ]
    assert [ChatTemplate(t).has_image_slot for t in (CHATML, PARTS)] == [False, True]
    deaf = "{% for m in messages %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endfor %}"
    assert (ChatTemplate(deaf).takes_parts, ChatTemplate(deaf).has_image_slot) == (True, False)
    for source in (CHATML, deaf):
        with pytest.raises(UserError, match="no place for a picture"):
            ChatTemplate(source).render([user_message("what?", pictures=1)])
    named = ChatTemplate(CHATML, image_text="<image>\n").render([user_message("what?", pictures=2)])
    assert "user\n<image>\n<image>\nwhat?<|im_end|>" in named


def test_templates_can_do_no_harm_and_fail_in_one_line():
    talk = TALK[:1]
    for source, said in (
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{{ messages[0].__class__.__subclasses__() }}", "refuses"),
        ("{% set ns = namespace(_x=1) %}", "refuses"),
        ("{{ raise_exception('only\ncats') }}", "only cats"),
        ("{% for m in %}", "broken in line 1"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=said) as error:
            ChatTemplate(source).render(talk)
        assert "\n" not in str(error.value)
    assert ChatTemplate("{{ strftime_now('%Y') }}").render(talk).startswith("20")


def test_the_template_is_found_where_directories_keep_it():
    config = {"eos_token": {"content": "</s>"}, "chat_template": [{"name": "default", "template": "a{{ eos_token }}"}]}
    files = {"tokenizer_config.json": json.dumps(config).encode()}
    found = read_template(files)
    assert found is not None
    assert found.render(TALK) == "a</s>"
    files["chat_template.jinja"] = b"b"
    assert read_template(files) == ChatTemplate("b", {"eos_token": "</s>"})
    files["chat_template.json"] = b'{"chat_template": "c"}'
    assert read_template(files) == ChatTemplate("c", {"eos_token": "</s>"})
    assert read_template({"tokenizer_config.json": b"{}"}) is None
    with pytest.raises(UserError, match="broken"):
        read_template({"chat_template.json": b"[]"})


def test_contents_are_texts_or_parts():
    assert parts_of("a") == [{"type": "text", "text": "a"}]
    assert parts_of([{"type": "image_url", "image_url": "x.png"}]) == [{"type": "image"}]
    for wrong in (3, [{"type": "video"}], [{"type": "text"}]):
        with pytest.raises(UserError, match="parts of type"):
            parts_of(wrong)
