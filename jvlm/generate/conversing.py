"""The preprocessing that a model with a language model inside it makes of conversations."""

from typing import Any

from jvlm.core.errors import UserError
from jvlm.data.any_resolution import AnyResolution
from jvlm.data.chat import ChatTemplate, read_template
from jvlm.data.chat_templates import BARE, TEMPLATES
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.pictures import FixedPictures, Pictures
from jvlm.data.processor import BRIDGE_FOLDER, Processor
from jvlm.data.tokenizer_json import JsonTokenizer


def conversing(
    model: Any,
    processor: Processor,
    length: int | None = None,
    max_tiles: int = 1,
    question: int | None = None,
    where: str = "the model",
    raw: bool = False,
) -> MultimodalProcessor:
    """How `model` reads conversations with the preprocessing of its directory: rows of `length` tokens (None: all that
    it takes) with at most `max_tiles` pictures, or tiles of pictures. A bridge that reads the instruction is given
    `question` tokens of it at most (None: all that it takes).

    Without a chat template, or with `raw`, pictures stand before the text as it is. UserError, beginning with `where`,
    for a directory without a tokenizer.json, without image preprocessing though the model sees, and for a template that
    has no place for a picture.
    """
    tokenizer = processor.tokenizer
    if not isinstance(tokenizer, JsonTokenizer):
        found = "no tokenizer" if tokenizer is None else f"a tokenizer of kind {tokenizer.kind}"
        raise UserError(f"{where}: {found}; conversations need a tokenizer.json")
    sees = hasattr(model, "image_token")
    text = tokenizer.piece(model.image_token) if sees else None
    if sees and text is None:
        raise UserError(f"{where}: the tokenizer has no token {model.image_token}, which stands for a picture")
    template = None if raw else read_template(tokenizer.to_files(), text)
    published = template is not None
    if template is None:
        template = bare_template(model, tokenizer, text)
    if sees and not template.has_image_slot:
        raise UserError(f"{where}: its chat template has no place for a picture; give it one that has")
    asks = getattr(model, "reads_question", False)
    asker = processor.bridge_tokenizer or tokenizer
    # A token for pictures, which no instruction holds, may stand at the end.
    if asks and model.bridge.qformer.vocab_size < asker.vocab_size - 1:
        raise UserError(
            f"{where}: its Q-Former knows {model.bridge.qformer.vocab_size} tokens, the tokenizer "
            f"{asker.vocab_size}; put the Q-Former's own into the folder {BRIDGE_FOLDER}"
        )
    return MultimodalProcessor(
        tokenizer=tokenizer,
        template=template,
        pictures=pictures_of(model, processor, where) if sees else None,
        image_id=model.image_token if sees else None,
        length=length or model.length,
        end_id=tokenizer.eos_id,
        max_tiles=max_tiles,
        question=(question or model.bridge.qformer.length) if asks else 0,
        asker=asker,
        starts=published or not pictures_before(model),
    )


def pictures_before(model: Any) -> bool:
    """Whether a picture stands before the start token where there is no template: BLIP-2, InstructBLIP, PaliGemma."""
    return getattr(model, "prefix", False) or hasattr(getattr(model, "bridge", None), "qformer")


def bare_template(model: Any, tokenizer: JsonTokenizer, image_text: str | None) -> ChatTemplate:
    """What stands for a template where a directory has none: the pictures, then the text as it is."""
    special = dict(image_token=image_text or "", eos_token=tokenizer.piece(tokenizer.eos_id) or "")
    if not pictures_before(model):
        return ChatTemplate(TEMPLATES["plain"], special)
    if getattr(model, "prefix", False):
        # PaliGemma's prompts begin with the start token, whatever its tokenizer does, and end in a line break
        # (arXiv:2407.07726, section 3.2).
        return ChatTemplate(BARE, special | dict(start=tokenizer.piece(tokenizer.bos_id) or "", end="\n"))
    special |= dict(start="".join(tokenizer.piece(id) or "" for id in tokenizer.prefix), end="")
    return ChatTemplate(BARE, special)


def pictures_of(model: Any, processor: Processor, where: str = "the model") -> Pictures:
    """How `model` takes a picture."""
    if processor.image is None:
        raise UserError(f"{where}: no image preprocessing (preprocessor_config.json); copy it from the model's source")
    tiles = getattr(model, "tiles", None)
    if tiles is not None:
        return AnyResolution(processor.image, model.image_tower.grid[0], tiles)
    return FixedPictures(processor.image, model.image_tokens())
