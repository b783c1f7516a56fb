"""The console script `jvlm`: finds the verb, parses, runs, and turns errors into one line and an exit status."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from jvlm.core.errors import ConfigError, UserError, nearest

# Verb to what it does; the module jvlm/cli/<verb>.py is imported only when the verb is used.
VERBS = {
    "train": "train a model from a configuration; run again with the same workdir to resume",
    "plan": "compile the step for a TPU slice: memory, FLOPs, collectives, fit",
    "evaluate": "score a model directory or a workdir",
    "import": "a published directory into a jvlm directory",
    "export": "a workdir or directory into a format that other libraries open",
    "adapt": "merge adapters into a model, take them out, or count what a run trains",
    "quantize": "write a directory with weights in few bits, and a receipt of what that costs",
    "verify": "check that a directory is complete, finite and self-consistent",
    "embed": "embeddings of pictures and texts",
    "classify": "zero-shot classes of pictures",
    "search": "find pictures of a folder by a text or a picture",
    "caption": "say what pictures show",
    "ask": "ask a model a question, about pictures or not, or hold a conversation",
    "paint": "pictures from texts, from a picture, or over a part of one",
    "data": "look through a dataset before a run; pack a folder or table into shards",
}
MODULES = {"import": "import_"}


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, naming the nearest valid option or verb."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def _overview() -> str:
    lines = ["usage: jvlm VERB [options]", "", "Vision-language models in JAX.", "", "verbs:"]
    lines += [f"  {verb:<10} {text}" for verb, text in VERBS.items()]
    lines += ["", "`jvlm VERB --help` shows the options and an example."]
    return "\n".join(lines)


def run(verb: str, argv: Sequence[str]) -> int:
    """Parses `argv` for one verb and runs it; the exit status."""
    module = importlib.import_module(f"jvlm.cli.{MODULES.get(verb, verb)}")
    parser = Parser(
        prog=f"jvlm {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    module.add_arguments(parser)
    # Wherever it stands, also behind the name of a verb's own part.
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    try:
        return int(module.run(parse(parser, argv)) or 0)
    except UserError as error:
        if debug:
            raise
        print(f"jvlm {verb}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"jvlm {verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            raise
        print(f"jvlm {verb}: {_reason(error)} (--debug shows where)", file=sys.stderr)
        return 1


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a verb; ConfigError for one that it does not know.

    Where the parser has a default for `overrides`, they are the `KEY=VALUE` of every `--config.KEY=VALUE`.
    """
    takes = parser.get_default("overrides") is not None
    # Not left to argparse, which takes a value with a blank in it for a positional argument.
    overrides = [text for text in argv if takes and text.startswith("--config.")]
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"{text} has no value; write {text}=VALUE")
    given = [text for text in argv if text not in overrides]
    known = _options(parser)
    # Before argparse, which would rather say what is missing.
    odd = [text for text in given if text.startswith("--") and text != "--" and text.partition("=")[0] not in known]
    args, rest = (argparse.Namespace(), odd) if odd else parser.parse_known_args(given)
    if rest:
        raise ConfigError(f"unknown argument {rest[0]!r}; {nearest(rest[0].partition('=')[0], known)}")
    if takes:
        args.overrides = [text.removeprefix("--config.") for text in overrides]
    return args


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a parser and of those below it."""
    below = [sub for action in parser._actions if isinstance(action.choices, dict) for sub in action.choices.values()]
    own = [option for action in parser._actions for option in action.option_strings]
    return own + [option for sub in below for option in _options(sub)]


def _reason(error: Exception) -> str:
    """An error that no part of jvlm foresaw, in one line."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ImportError) and "gcsfs" in text:
        return "gs:// paths need another package: pip install 'jvlm[gcs]'"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}; choose another place or mend this one"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def print_json(value: object) -> None:
    """The one object that `--json` puts on stdout."""
    print(json.dumps(value))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    verb, *rest = argv
    if verb == "--version":
        from importlib.metadata import version

        print(version("jvlm"))
        return 0
    if verb not in VERBS:
        print(f"jvlm: no verb {verb!r}; {nearest(verb, VERBS)}", file=sys.stderr)
        return 2
    return run(verb, rest)


if __name__ == "__main__":
    sys.exit(main())
