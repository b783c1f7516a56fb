"""Ask a model: one question, or a conversation, about pictures where it sees any.

example:
  jvlm ask --model SmolLM2-135M-Instruct --question "What is the capital of France?" --max-new-tokens 40
  jvlm ask --model llava-1.5-7b-hf --image cat.png dog.png --question "Which of them is larger?"
  jvlm ask --model runs/flamingo-easyvqa --example a.png "what color is the shape?" red --image b.png \
      --question "what color is the shape?"
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from jvlm.cli.answering import add_writing_arguments, check_writing, load_answerer, texts
from jvlm.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="model directory, folder with a .gguf, or workdir"
    )
    parser.add_argument("--question", metavar="Q", help="what to ask")
    parser.add_argument("--chat", action="store_true", help="read question after question from the terminal")
    parser.add_argument("--image", nargs="+", default=[], metavar="F", help="pictures, for a model that takes them")
    parser.add_argument(
        "--example", nargs=3, action="append", default=[], metavar=("F", "Q", "A"),
        help="a picture, a question about it and its answer, shown before; may be repeated",
    )  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="continue the question as it is, without the chat template")
    add_writing_arguments(parser, 256)


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.encoding import check_pictures
    from jvlm.cli.main import print_json
    from jvlm.data.chat import assistant_message, user_message
    from jvlm.evals.answerer import Prompt
    from jvlm.generate.prompts import pieces

    _check(args)
    pictures = check_pictures([*(picture for picture, _, _ in args.example), *args.image])
    messages: list[dict[str, Any]] = []
    for _, question, answer in args.example:
        messages += [user_message(question, 1), assistant_message(answer)]
    answerer = load_answerer(args, raw=args.raw)
    decode = answerer.tokenizer.decode
    if args.json:
        prompt = Prompt([*messages, _asked(args.question, len(args.image))], pictures)
        (tokens,) = list(texts(args, answerer, [prompt]))[-1]
        print_json({"answer": decode(tokens), "tokens": tokens})
        return 0
    shown = len(args.image)
    for question in _questions(args):
        messages = [*messages, _asked(question, shown)]
        shown = 0  # the pictures stand before the first question
        said = ""
        for piece in pieces(texts(args, answerer, [Prompt(messages, pictures)], every=4), decode):
            print(piece, end="", flush=True)
            said += piece
        print()
        messages = [*messages, assistant_message(said)]
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.chat == (args.question is not None):
        raise ConfigError("give --question Q or --chat, one of the two")
    if args.chat and (args.json or args.raw):
        raise ConfigError("--chat goes with neither --json nor --raw")
    if args.raw and args.example:
        raise ConfigError("--example is written by the chat template; leave --raw out")
    check_writing(args)


def _asked(question: str, pictures: int) -> dict[str, Any]:
    """A message of the user: the pictures where the question says `<image>`, else before it."""
    from jvlm.data.chat import user_message
    from jvlm.data.conversations import SLOT

    first, *rest = question.split(SLOT)
    if not rest:
        return user_message(question, pictures)
    content = [{"type": "text", "text": first}] if first else []
    for text in rest:
        content += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
    return {"role": "user", "content": content}


def _questions(args: argparse.Namespace) -> Iterator[str]:
    if not args.chat:
        yield args.question
        return
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if question:
            yield question


if __name__ == "__main__":
    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("ask", sys.argv[1:]))
