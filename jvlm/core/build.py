"""From a plain dict to an object: merge, look up, call, with errors that name the nearest right key."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jvlm.core.errors import ConfigError, nearest

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`, or a ConfigError that says which `what` is nearest."""
    if name not in table:
        raise ConfigError(f"{what} {name!r} is unknown; {nearest(name, table)}")
    return table[name]


def call(fn: Callable[..., T], kwargs: Mapping[str, Any], what: str, rest: Callable[..., Any] | None = None) -> T:
    """`fn(**kwargs)`, or a ConfigError that names an unknown or missing argument of `what`.

    `rest` is what `fn` hands its further keywords to.
    """
    parameters = dict(inspect.signature(fn).parameters)
    if rest is not None:
        own = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        parameters = {**inspect.signature(rest).parameters, **own}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in kwargs:
        if key not in parameters and not open_ended:
            raise ConfigError(f"{what} has no field {key!r}; {nearest(key, parameters)}")
    for name, p in parameters.items():
        needed = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if needed and name not in kwargs:
            raise ConfigError(f"{what} needs the field {name!r}")
    return fn(**kwargs)


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `override`, dicts merged key by key."""
    out = dict(base)
    for key, value in override.items():
        inner = out.get(key)
        out[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return out
