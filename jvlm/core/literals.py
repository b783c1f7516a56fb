"""Values of the command line: Python literals, or else the text as it stands."""

import ast
from typing import Any

from jvlm.core.errors import ConfigError


def literal(text: str) -> Any:
    """The Python literal that `text` is, or `text`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def assigned(text: str, option: str, example: str) -> dict[str, Any]:
    """The literals of `FIELD=VALUE,FIELD=VALUE`. ConfigError names the part without a value, and the `option`."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{option}: {part!r} has no '=', so it has no value; write {example}")
        found[name.strip()] = literal(value)
    return found
