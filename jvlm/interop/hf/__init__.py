"""The transformers formats, by `model_type`; where one type has several classes, the others have names of their own."""

from jvlm.interop.hf import (
    align,
    bert,
    bert_decoder,
    blip2,
    clip,
    clip_text,
    decoders,
    gpt2,
    idefics,
    llava,
    opt,
    paligemma,
    siglip,
    t5,
    vit,
)
from jvlm.interop.table import Config, Table

TABLES: dict[str, Table] = {
    "align": align.TABLE,
    "bert": bert.TABLE,
    "bert-decoder": bert_decoder.TABLE,
    "blip-2": blip2.TABLE,
    "blip-2-retrieval": blip2.RETRIEVAL,
    "clip": clip.TABLE,
    "clip_text_model": clip_text.TABLE,
    "clip_text_model-projected": clip_text.PROJECTED_TABLE,
    "siglip": siglip.TABLE,
    "siglip2": siglip.TABLE2,
    "vit": vit.TABLE,
    **decoders.TABLES,
    "opt": opt.TABLE,
    "gpt2": gpt2.TABLE,
    "idefics": idefics.TABLE,
    "instructblip": blip2.INSTRUCT,
    "llava": llava.TABLE,
    "llava_next": llava.NEXT,
    "paligemma": paligemma.TABLE,
    "t5": t5.TABLE,
    "t5-encoder": t5.ENCODER,
}


def kind_of(config: Config) -> str:
    """The key of `TABLES` for a published configuration: its `model_type`, and which of its classes it was."""
    kind = str(config.get("model_type"))
    if kind == "bert" and config.get("is_decoder"):
        return "bert-decoder"
    if kind == "clip_text_model" and config.get("architectures") == [clip_text.PROJECTED]:
        return "clip_text_model-projected"
    if kind == "t5" and config.get("architectures") == ["T5EncoderModel"]:
        return "t5-encoder"
    if kind == "blip-2" and config.get("architectures") == ["Blip2ForImageTextRetrieval"]:
        return "blip-2-retrieval"
    return kind
