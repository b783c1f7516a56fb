"""The demo's shards as a source whose captions are made from an emoji's name and tags."""

import zlib

from jvlm.core.errors import ConfigError
from jvlm.data.emoji import shards
from jvlm.data.shuffle import permutation
from jvlm.data.sources import Sample, digest
from jvlm.data.tar import TarSource

CAPTIONS = ("name", "tags", "training")
ORDERS = 4
"""How many orders of an emoji's tags training draws from."""


class EmojiSource:
    """A split of the emoji shards (a key of `emoji.SHARDS`).

    `captions`: `name` gives "smiling cat"; `tags` "smiling cat, pet, happy"; `training` the name as often as the name
    with its tags in one of `ORDERS` orders, for a pipeline to draw from: where a text is cut, other tags are lost.
    """

    def __init__(self, split: str = "train", captions: str = "training") -> None:
        if captions not in CAPTIONS:
            raise ConfigError(f"emoji captions {captions!r} are unknown; valid names: {', '.join(CAPTIONS)}")
        self._tar = TarSource([str(path) for path in shards(split)])
        self._captions = captions
        self._made: dict[int, list[str]] = {}
        self.sample_bytes = self._tar.sample_bytes

    def __len__(self) -> int:
        return len(self._tar)

    def __getitem__(self, index: int) -> Sample:
        sample = self._tar[index]
        if index not in self._made:
            self._made[index] = self._make(sample)
        return sample._replace(captions=self._made[index])

    def _make(self, sample: Sample) -> list[str]:
        name = sample.captions[0]
        tags = list(sample.extra.get("tags", ()))
        if self._captions == "name":
            return [name]
        if self._captions == "tags":
            return [", ".join([name, *tags])]
        key = zlib.crc32(sample.key.encode())
        orders = (permutation(len(tags), key, number) for number in range(ORDERS))
        return [name] * ORDERS + [", ".join([name, *(tags[i] for i in order)]) for order in orders]

    def fingerprint(self) -> str:
        """Changes with the shards and with how captions are made."""
        return digest(self._tar.fingerprint(), self._captions)
