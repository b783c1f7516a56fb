"""The preprocessing of a run: of its pictures, its texts, and of the conversations that a model is taught."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jvlm.core import build
from jvlm.core.errors import ConfigError
from jvlm.data.added_tokens import with_special_token
from jvlm.data.buckets import Buckets, Size
from jvlm.data.chat_templates import with_template
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import FILES, Tokenizer, clip_tokenizer, tokenizer_from_files
from jvlm.interop import gguf_model
from jvlm.interop.gguf_file import GgufFile
from jvlm.interop.gguf_tokenizer import tokenizer_files
from jvlm.interop.weights import example_inputs
from jvlm.train.config import tuples
from jvlm.train.pretrained import locate


def make_processor(fields: Mapping[str, Any], model: Any, base: Processor | None) -> Processor:
    """The preprocessing of a run: that of the weights it starts from, or that of the configuration.

    `fields`: `image` (fields of ImageSpec without `size`, `kind` one of clip, siglip), `tokenizer` (`clip` for the
    vocabulary that ships with jvlm, else a directory or package that holds one; None leaves texts out), and for models
    that write, `template` (a key of `TEMPLATES` instead of the tokenizer's own) and `image_token`, the text of the
    token that stands for a picture, added where the tokenizer has none. Sizes and lengths are the model's.
    """
    image_fields = tuples(fields.get("image") or {})
    shapes = example_inputs(model)
    image = text = None
    if "image" in shapes:
        side = shapes["image"][0][-2]
        if base is not None and base.image is not None:
            image = base.image if base.image.size[0] == side else _resized(base.image, side)
        else:
            kinds = {"clip": ImageSpec.clip, "siglip": ImageSpec.siglip}
            kind = build.lookup(kinds, image_fields.pop("kind", "clip"), "image preprocessing")
            image = build.call(lambda **rest: kind(side, **rest), image_fields, "processor.image")
    name = fields.get("tokenizer", "clip")
    if "tokens" not in shapes or name is None:
        return Processor(image)
    tokenizer = base.tokenizer if base is not None and base.tokenizer is not None else read_tokenizer(name)
    tokenizer = prepared(tokenizer, model, fields.get("template"), fields.get("image_token"))
    pad = base.text.pad_id if base is not None and base.text is not None else tokenizer.pad_id
    learned = base.text.words if base is not None and base.text is not None else ()
    text = TextSpec(length=shapes["tokens"][0][1], pad_id=pad, words=learned)
    words = getattr(model, "text_tower", model).vocab_size
    known = max(words, 1 + getattr(model, "image_token", -1))
    if tokenizer.vocab_size > known:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the text tower {words}; raise model.text.vocab_size"
        )
    return Processor(image, text, tokenizer, None if base is None else base.bridge_tokenizer)


def make_buckets(fields: Any, model: Any) -> tuple[Size, ...]:
    """(height, width) of the pictures that a run with `pipeline.buckets` of these `fields` learns from; none without.

    ConfigError for a model that takes one size alone, and for sides that its parts cannot halve.
    """
    if fields is None:
        return ()
    if not isinstance(fields, Mapping):
        raise ConfigError(f"pipeline.buckets = {fields!r} is no dictionary; write {{'side': 512}}, for example")
    multiple = getattr(model, "multiple", None)
    if multiple is None:
        raise ConfigError("pipeline.buckets: only a latent diffusion model learns from pictures of several shapes")
    return Buckets.of(fields).check(multiple).sizes()


def prepared(tokenizer: Tokenizer, model: Any, template: str | None, image_token: str | None) -> Tokenizer:
    """`tokenizer` with a token for pictures and another chat template. ConfigError where the model has another id."""
    if template is None and image_token is None:
        return tokenizer
    files, options = tokenizer.to_files(), tokenizer.options
    if image_token is not None:
        files, number = with_special_token(files, image_token)
        if number != model.image_token:
            raise ConfigError(
                f"{image_token!r} is token {number}; set model.image_token, now {model.image_token}, to it"
            )
    if template is not None:
        files = with_template(files, template, image_token or "<image>")
    return tokenizer_from_files(files, clean=options.get("clean", ""))


def read_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `name`: `clip`, or that of a directory, of a GGUF file in it, or of an installed package."""
    if name == "clip":
        return clip_tokenizer()
    folder = locate(name)
    files = {file: (folder / file).read_bytes() for file in FILES if (folder / file).is_file()}
    if files:
        return tokenizer_from_files(files)
    if (file := gguf_model.find(folder)) is not None:
        return tokenizer_from_files(tokenizer_files(GgufFile(file)))
    raise ConfigError(f"processor.tokenizer {name!r} is neither 'clip' nor a directory with a tokenizer")


def _resized(spec: ImageSpec, side: int) -> ImageSpec:
    target = side if isinstance(spec.resize_to, int) else None if spec.resize_to is None else (side, side)
    return replace(spec, size=(side, side), resize_to=target)
