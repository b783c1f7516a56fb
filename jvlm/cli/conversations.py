"""`jvlm data check` on conversations: with a model directory's tokenizer and chat template."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jvlm.cli.checked import report, span
from jvlm.cli.numbers import whole
from jvlm.core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from jvlm.data.multimodal import MultimodalProcessor

FORMATS = ("instructions", "vqa_v2", "interleaved", "easy_vqa", "captioned")
"""Datasets that hold conversations."""
SLOT = "<image>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `check` takes for conversations beside its other options."""
    group = parser.add_argument_group("conversations")
    group.add_argument("--model", metavar="DIR", help="whose tokenizer and chat template they are measured with")
    group.add_argument(
        "--picture-tokens", type=whole(1), metavar="N", help="tokens of a picture (default: as DIR says)"
    )
    group.add_argument("--max-pictures", type=whole(1), default=8, metavar="N", help="pictures that a row may hold (8)")


def kind_of(path: Path) -> str | None:
    """The dataset that a JSON file is, by its beginning; None for what its name alone tells."""
    if path.suffix not in (".json", ".jsonl", ".ndjson") or not path.is_file():
        return None
    with path.open() as file:
        if path.suffix == ".json":
            head = file.read(1 << 16).lstrip()
            if head.startswith("["):
                return "instructions"
            marks = {'"questions"': "vqa_v2", '"file_name"': "coco_captions"}
            return next((kind for mark, kind in marks.items() if mark in head), None)
        line = next((line for line in file if line.strip()), "{}")
    try:
        keys = set(json.loads(line))
    except (ValueError, TypeError):
        return None
    if keys & {"conversations", "messages"}:
        return "instructions"
    return "interleaved" if keys & {"texts", "text_list"} else None


def open_conversations(paths: list[str], kind: str, images: str | None) -> Any:
    """The dataset `kind` of `paths`: one file, or VQAv2's questions and annotations, or easy-VQA's split."""
    from jvlm.data import DATASETS

    folder = {"images": images} if images else {}
    if kind == "easy_vqa":
        return DATASETS[kind](split=paths[0])
    if kind == "vqa_v2":
        if len(paths) > 2 or not images:
            raise ConfigError("VQAv2 is QUESTIONS.json [ANNOTATIONS.json] --images DIR")
        return DATASETS[kind](questions=paths[0], annotations=paths[1] if len(paths) == 2 else None, **folder)
    if kind == "captioned":
        from jvlm.cli.data import open_source

        return DATASETS[kind](source=open_source(paths, kind_of(Path(paths[0])), images))
    if len(paths) > 1:
        raise ConfigError(f"one {kind} file at a time, got {len(paths)}")
    return DATASETS[kind](path=paths[0], **folder)


def processor_of(model: Path, length: int, tokens: int | None, max_pictures: int) -> "MultimodalProcessor":
    """The preprocessing that counts as the directory `model` would; its pictures are not made.

    UserError for a directory without a tokenizer or template, and without a hint at a picture's number of tokens.
    """
    from jvlm.data.chat import TEMPLATE_FILES, read_template
    from jvlm.data.image_spec import ImageSpec
    from jvlm.data.multimodal import MultimodalProcessor, SpanTokenizer
    from jvlm.data.pictures import FixedPictures
    from jvlm.data.tokenizers import FILES, tokenizer_from_files

    if not model.is_dir():
        raise UserError(f"{model}: no such directory")
    files = {n: (model / n).read_bytes() for n in {*FILES, *TEMPLATE_FILES} if (model / n).is_file()}
    config = json.loads((model / "config.json").read_text()) if (model / "config.json").is_file() else {}
    tokenizer = tokenizer_from_files({n: data for n, data in files.items() if n != "chat_template.json"})
    if not isinstance(tokenizer, SpanTokenizer):
        raise UserError(f"{model}: conversations need a tokenizer.json, its tokenizer is {tokenizer.kind}")
    slot = tokenizer.spans(SLOT)[0]
    image_id = config.get("image_token_id", config.get("image_token_index", slot[0] if len(slot) == 1 else None))
    template = read_template(files, SLOT if len(slot) == 1 else None)
    if template is None:
        raise UserError(f"{model}: no chat template; add a chat_template.jinja")
    tokens = tokens or config.get("image_seq_length") or config.get("num_query_tokens")
    if tokens is None and template.has_image_slot:
        raise UserError(f"{model}: how many tokens a picture takes is not in its config.json; give --picture-tokens")
    pictures = FixedPictures(ImageSpec(size=(8, 8)), tokens) if tokens else None
    return MultimodalProcessor(
        tokenizer=tokenizer, template=template, pictures=pictures, image_id=image_id, length=length,
        end_id=tokenizer.eos_id, max_tiles=max_pictures,
    )  # fmt: skip


def check(args: argparse.Namespace, kind: str) -> int:
    """Prints what is in the conversations and what of it could not be used; the exit status."""
    from jvlm.data.conversation_check import check_conversations

    if args.model is None:
        raise ConfigError("conversations are measured with a model's tokenizer and template; give --model DIR")
    processor = processor_of(Path(args.model), args.length or 2048, args.picture_tokens, args.max_pictures)
    result = check_conversations(open_conversations(args.paths, kind, args.images), processor)
    return report(args, result, _lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"samples   {result['samples']}, {result['good']} good"
    yield f"pictures  a sample {span(result['pictures'])}; {result['distinct_pictures']} different ones read"
    yield f"tokens    {span(result['tokens'])}; {result['cut']} fill all {result['tokens']['limit']}, so may be cut"
    yield f"answers   {span(result['answer_tokens'])} tokens"
    for kind, count in result["types"].items():
        yield f"type      {count} {kind}"
    yield f"packed    {result['rows']} rows, {result['utilisation']:.1%} of them tokens"
    for cause, count in result["bad"].items():
        yield f"bad       {count} {cause}"
        for message in result["first_bad"][cause]:
            yield f"          {message}"
