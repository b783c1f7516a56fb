"""Ask a language model: one question, or a conversation.

example:
  jvlm ask --model SmolLM2-135M-Instruct --question "What is the capital of France?" --max-new-tokens 40
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jvlm.core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from jvlm.data.tokenizers import Tokenizer
    from jvlm.generate.generator import Generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="model directory, folder with a .gguf, or workdir"
    )
    parser.add_argument("--question", metavar="Q", help="what to ask")
    parser.add_argument("--chat", action="store_true", help="read question after question from the terminal")
    parser.add_argument("--image", nargs="+", default=[], metavar="F", help="pictures, for a model that takes them")
    parser.add_argument("--raw", action="store_true", help="continue the question as it is, without the chat template")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="length of an answer (256)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token (0)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest (0: all)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest P (1.0)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1: repeat less (1.0)")
    parser.add_argument("--num-beams", type=int, default=1, metavar="B", help="width of a beam search (1: none)")
    parser.add_argument("--stop", nargs="+", default=[], metavar="S", help="strings that end an answer")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="precision (float32)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.main import print_json

    _check(args)
    generator, tokenizer = _load(args)
    if args.json:
        tokens = list(_texts(args, generator, tokenizer, [_user(args.question)]))[-1]
        print_json({"answer": tokenizer.decode(tokens), "tokens": tokens})
        return 0
    messages: list[dict[str, Any]] = []
    for question in _questions(args):
        messages = [*messages, _user(question)] if args.chat else [_user(question)]
        answer = _say(args, generator, tokenizer, messages)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.chat == (args.question is not None):
        raise ConfigError("give --question Q or --chat, one of the two")
    if args.chat and (args.json or args.raw):
        raise ConfigError("--chat goes with neither --json nor --raw")
    if args.num_beams < 1 or args.max_new_tokens < 1:
        raise ConfigError(f"--num-beams {args.num_beams} and --max-new-tokens {args.max_new_tokens}: give at least 1")
    if args.num_beams > 1 and (args.temperature or args.stop):
        raise ConfigError("a beam search draws nothing and knows no stop strings; leave --temperature and --stop out")


def _load(args: argparse.Namespace) -> "tuple[Generator, Tokenizer]":
    import jax.numpy as jnp

    from jvlm.generate.generator import Generator
    from jvlm.generate.prompts import ends
    from jvlm.train.pretrained import load
    from jvlm.train.runtime import start

    start()
    pretrained = load(args.model)
    if not hasattr(pretrained.model, "prefill"):
        raise UserError(f"{args.model}: the model writes no text; give a language model")
    if args.image:
        raise UserError(f"{args.model}: the model reads text only; leave --image out")
    tokenizer = pretrained.processor.tokenizer
    if tokenizer is None:
        raise UserError(f"{args.model}: the directory has no tokenizer; copy it there from the model's source")
    model = pretrained.model.clone(dtype=jnp.dtype(args.dtype))
    variables = {"params": pretrained.params, **pretrained.state}
    stops = ends(pretrained.generation, pretrained.published, tokenizer)
    return Generator(model, variables, ends=stops, pad=tokenizer.pad_id), tokenizer


def _user(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": question}]}


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


def _texts(
    args: argparse.Namespace, generator: "Generator", tokenizer: "Tokenizer", messages: list[dict[str, Any]]
) -> Iterator[list[int]]:
    """The answer so far, a few tokens at a time."""
    from jvlm.generate.prompts import prompt
    from jvlm.generate.sampling import sampling

    tokens = prompt(tokenizer, messages, args.raw)
    how = sampling(args.temperature, args.top_k, args.top_p, args.repetition_penalty)
    if args.num_beams > 1:
        yield generator.beams([tokens], args.max_new_tokens, args.num_beams, how=how)[0]
        return
    every = None if args.json else 4
    for (text,) in generator.stream(
        [tokens], args.max_new_tokens, how=how, seed=args.seed, stop=args.stop, decode=tokenizer.decode, every=every
    ):
        yield text


def _say(
    args: argparse.Namespace, generator: "Generator", tokenizer: "Tokenizer", messages: list[dict[str, Any]]
) -> str:
    from jvlm.generate.prompts import pieces

    said = ""
    for piece in pieces(([text] for text in _texts(args, generator, tokenizer, messages)), tokenizer.decode):
        print(piece, end="", flush=True)
        said += piece
    print()
    return said


if __name__ == "__main__":
    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("ask", sys.argv[1:]))
