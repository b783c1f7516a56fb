"""Jinja under the settings that chat templates are written for, sandboxed: a template is somebody else's code.

The settings, filters and names are those of transformers' `render_jinja_template`.
"""

import datetime
import functools
import json
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

BEGIN, END = "\ufdd0", "\ufdd1"
"""Around what the assistant says, in a marked rendering: noncharacters, which no text holds."""


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`, which encloses what the model is to say."""

    before: tuple[nodes.Node, ...] = ()
    after: tuple[nodes.Node, ...] = ()

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope([*self.before, *body, *self.after]).set_lineno(line)


class _MarkedGeneration(_Generation):
    before = (nodes.Output([nodes.TemplateData(BEGIN)]),)
    after = (nodes.Output([nodes.TemplateData(END)]),)


class _Dict:
    """`dict` for templates: the constructor and nothing else of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` for templates, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        values = dict(*given, **kwargs)
        for name in values:
            _public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.cache
def environment(marked: bool) -> jinja2.Environment:
    """The environment of chat templates; `marked` puts BEGIN and END around what stands in generation tags."""
    generation = _MarkedGeneration if marked else _Generation
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _tojson
    made.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=_Namespace
    )
    return made


@functools.lru_cache(maxsize=64)
def compiled(template: str, marked: bool) -> jinja2.Template:
    """`template` ready to render; jinja2's errors as they come."""
    return environment(marked).from_string(template)


def plain(value: Any) -> Any:
    """`value` as plain JSON types; anything else by the name of its type, so that a template can call nothing of it."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return f"<{type(value).__name__}>"
