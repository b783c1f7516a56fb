"""The demo's pictures: about a thousand emoji concepts in five art styles, as WebDataset shards beside this file.

Each sample is `key.webp` (48 x 48, on white) and `key.json` with `caption` (the English name), `tags` (a list, may be
empty), `concept`, `label` (the concept as an integer, the same in every style) and `style`. Licences: `LICENSES.md`.
How it was made and what was left out: `scripts/build_emoji.py`.
"""

import json
from importlib import resources
from pathlib import Path

from jvlm.core.errors import ConfigError, nearest

SHARDS = {
    "train": (
        "train-twemoji.tar",
        "train-noto.tar",
        "train-noto-v1.tar",
        "train-fluent-emoji-flat.tar",
    ),
    "style": ("style-emojione.tar",),
    "validation": ("validation-emojione.tar",),
    "concepts": ("concepts.tar",),
}
"""`train`: four styles without the held-out concepts. `style`: 400 of the trained concepts in a style never trained on.
`validation`: that style's other trained concepts, for choosing a recipe. `concepts`: 50 concepts never trained on, in
all five styles."""


def shards(split: str) -> tuple[Path, ...]:
    """Paths of a split's tar shards; `split` is a key of `SHARDS`, anything else raises `ConfigError`."""
    if split not in SHARDS:
        raise ConfigError(f"emoji has no split {split!r}: {nearest(split, SHARDS)}")
    folder = Path(str(resources.files(__name__)))
    return tuple(folder / name for name in SHARDS[split])


def concepts(split: str) -> list[str]:
    """Names of the concepts that a split shows, sorted; `split` is a key of `SHARDS`."""
    if split not in SHARDS:
        raise ConfigError(f"emoji has no split {split!r}: {nearest(split, SHARDS)}")
    return json.loads(resources.files(__name__).joinpath("splits.json").read_text())[split]
