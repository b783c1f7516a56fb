"""Configurations: one Python file a run, locked, overridden from the command line key by key."""

import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jvlm.core.errors import ConfigError, nearest
from jvlm.core.literals import literal

SECTIONS = ("adapter", "quantize")
ANYWHERE = (*SECTIONS, "gradients")
"""Keys that every configuration takes, None where its file does not say; dictionaries the former two."""
OPEN = ("pipeline",)
"""Dictionaries that take keys which the file does not spell out: what they go to knows its own."""
REQUIRED = ("seed", "steps", "batch_size", "checkpoint_every", "log_every", "init")


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked configuration of `FILE[:arg]`, with overrides such as `optimizer.lr=1e-3` applied.

    FILE is a path, or the name of a configuration that ships with jvlm. `arg` goes to `get_config`: one of the
    file's `ARGS`, by default `tiny` alone. ConfigError names a missing file, an unknown `arg` or key with the nearest
    right one, and a value of another type.
    """
    file, _, arg = spec.partition(":")
    path = _find(file)
    module_spec = importlib.util.spec_from_file_location(f"jvlm_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{path} is not a Python file with get_config()")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no get_config()")
    if arg and not inspect.signature(module.get_config).parameters:
        raise ConfigError(f"{path} takes no argument, so {spec!r} cannot end in ':{arg}'")
    if arg and arg not in (known := getattr(module, "ARGS", ("tiny",))):
        raise ConfigError(f"{path} has no variant {arg!r}; {nearest(arg, known)} (a file lists its own in ARGS)")
    config: ConfigDict = module.get_config(arg) if arg else module.get_config()
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise ConfigError(f"{path} lacks the key {missing[0]!r}")
    for key in ANYWHERE:
        if key not in config:
            config[key] = None
    config.lock()
    for override in overrides:
        apply_override(config, override)
    return config


def _find(file: str) -> Path:
    path = Path(file)
    if path.is_file():
        return path
    shipped = {Path(str(item)).name: Path(str(item)) for item in _shipped()}
    for name in (path.name, path.name + ".py"):
        if name in shipped and path.parent in (Path("."), Path("configs")):
            return shipped[name]
    raise ConfigError(f"no configuration file {file!r}; {nearest(path.name, shipped)}")


def _shipped() -> Iterator[Any]:
    root = resources.files("jvlm.configs")
    return (item for item in root.iterdir() if item.name.endswith(".py") and item.name != "__init__.py")


def shipped_configs() -> list[str]:
    """Names of the configurations that come with jvlm."""
    return sorted(item.name for item in _shipped())


def apply_override(config: ConfigDict, override: str) -> None:
    """Sets `key.sub=value` in place; the value is a Python literal, or else a string."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} has no '='; write --config.key=value")
    *parents, last = key.split(".")
    node: Any = config
    for depth, part in enumerate([*parents, last]):
        if depth == len(parents) and parents == list(OPEN) and isinstance(node, ConfigDict) and part not in node:
            with config.unlocked():
                node[part] = None
        if not isinstance(node, ConfigDict) or part not in node:
            where = ".".join(key.split(".")[:depth]) or "the configuration"
            known = node.keys() if isinstance(node, ConfigDict) else ()
            raise ConfigError(f"{where} has no key {part!r} (in --config.{key}); {nearest(part, known)}")
        if depth < len(parents):
            node = node[part]
    value = literal(text)
    section = isinstance(node[last], ConfigDict) or key in SECTIONS
    if section and not (value is None or isinstance(value, dict)):
        example = f"--config.{key}=\"{{'KEY': VALUE}}\""
        raise ConfigError(f"--config.{key}={text} is no dictionary; write {example}")
    if node[last] is None or isinstance(node[last], ConfigDict | tuple | list):
        # A part of the configuration is replaced whole; None stands for any type.
        with config.unlocked(), config.ignore_type():
            node[last] = tuple(value) if isinstance(value, list) else value
        return
    try:
        node[last] = value
    except TypeError:
        old = type(node[last]).__name__
        raise ConfigError(f"--config.{key}={text} is a {type(value).__name__}, but the key holds a {old}") from None


# What decides the samples of each step and the meaning of the parameters: a resumed run cannot change it.
LASTING = ("seed", "batch_size", "model", "task", "data", "pipeline.buckets", "frozen", "adapter", "quantize")


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any], workdir: Any) -> list[str]:
    """What the run that left its checkpoints in `workdir` goes on with otherwise, as `key = new (was old)`.

    Raises ConfigError where the difference makes another run of it.
    """
    for key in LASTING:
        old, new = _value(before, key), _value(now, key)
        if old != new:
            where, was, wanted = next(differences(key, old, new), (key, old, new))
            raise ConfigError(
                f"{workdir} holds a run with {where} = {was!r}, this configuration has {wanted!r}; "
                "use another --workdir, or start from it with --config.init=DIR"
            )
    rest = [key for key in dict.fromkeys([*before, *now]) if key not in LASTING]
    changed = (found for key in rest for found in differences(key, before.get(key), now.get(key)))
    return [f"{where} = {wanted!r} (was {was!r})" for where, was, wanted in changed]


def _value(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = (found or {}).get(part)
    return found


def differences(key: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of what differs below `key`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for part in dict.fromkeys([*before, *now]):
            yield from differences(f"{key}.{part}", before.get(part), now.get(part))
    elif before != now:
        yield key, before, now


def to_plain(config: Any) -> Any:
    """Nested dicts, lists and scalars of a configuration, fit for JSON."""
    if isinstance(config, ConfigDict | Mapping):
        return {key: to_plain(config[key]) for key in config}
    if isinstance(config, tuple | list):
        return [to_plain(item) for item in config]
    return config


def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with lists, which is what `to_plain` makes of tuples, as tuples again."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
