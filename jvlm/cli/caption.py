"""Says in words what pictures show.

example:
  jvlm caption --model blip2-opt-2.7b --images cat.png dog.png
  jvlm caption --model llava-1.5-7b-hf --images cat.png --prompt "Describe the picture in one sentence." --json
"""

import argparse
import sys

from jvlm.cli.answering import add_writing_arguments, check_writing, load_answerer, texts
from jvlm.cli.numbers import whole
from jvlm.core.errors import UserError

PROMPT = "Describe the picture."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory, workdir or checkpoint step")
    parser.add_argument("--images", required=True, nargs="+", metavar="F", help="picture files")
    parser.add_argument(
        "--prompt", metavar="TEXT", help=f"what stands after the picture ({PROMPT!r} in a chat template, else nothing)"
    )
    parser.add_argument("--batch-size", type=whole(1), default=8, metavar="N", help="pictures computed at once (8)")
    add_writing_arguments(parser, 40)


def run(args: argparse.Namespace) -> int:
    from jvlm.cli.encoding import check_pictures
    from jvlm.cli.main import print_json
    from jvlm.data.chat import user_message
    from jvlm.evals.answerer import Prompt

    check_writing(args)
    pictures = check_pictures(args.images)
    answerer = load_answerer(args)
    if not answerer.sees:
        raise UserError(f"{args.model}: the model reads text only; give one that takes pictures")
    asked = args.prompt if args.prompt is not None else PROMPT if answerer.speaks_in_turns else ""
    captions: list[str] = []
    for start in range(0, len(pictures), args.batch_size):
        prompts = [Prompt([user_message(asked, 1)], [file]) for file in pictures[start : start + args.batch_size]]
        found = list(texts(args, answerer, prompts))[-1]
        captions += [answerer.tokenizer.decode(tokens).strip() for tokens in found]
    if not any(captions) and args.prompt is None:
        print("the model wrote nothing; it may want a text to go on from: --prompt", file=sys.stderr)
    if args.json:
        print_json({"captions": captions})
        return 0
    for file, caption in zip(pictures, captions):
        print(f"{file}: {caption}" if len(pictures) > 1 else caption)
    return 0


if __name__ == "__main__":
    from jvlm.cli.main import run as run_verb

    sys.exit(run_verb("caption", sys.argv[1:]))
