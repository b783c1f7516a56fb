"""Pictures are captioned with what their questions give away, and with nothing else."""

from jvlm.data.easy_vqa_pictures import EasyVqaPictures, told


def test_a_question_tells_what_its_answer_admits():
    assert list(told("what is the green shape?", "circle")) == ["green", "circle"]
    assert list(told("is there a red shape?", "yes")) == ["red"]
    assert list(told("is there a red shape?", "no")) == []
    assert list(told("is no triangle present?", "no")) == ["triangle"]
    assert list(told("is there not a triangle?", "yes")) == []


def test_captions_name_the_colour_in_the_picture():
    source = EasyVqaPictures("test")
    assert len(source) == 880 and len(source.captions) == 24
    sample = source[0]
    assert sample.captions == [sample.extra["caption"]] == [source.captions[sample.label or 0]]
