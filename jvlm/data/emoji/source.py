"""The demo's shards as a source whose captions are made from an emoji's name and tags."""

from jvlm.core.errors import ConfigError
from jvlm.data.emoji import shards
from jvlm.data.sources import Sample, digest
from jvlm.data.tar import TarSource

CAPTIONS = ("name", "tags", "both")


class EmojiSource:
    """A split of the emoji shards (a key of `emoji.SHARDS`).

    `captions`: `name` gives "smiling cat", `tags` "smiling cat, pet, happy", `both` the two of them, between which
    training draws.
    """

    def __init__(self, split: str = "train", captions: str = "both") -> None:
        if captions not in CAPTIONS:
            raise ConfigError(f"emoji captions {captions!r} are unknown; valid names: {', '.join(CAPTIONS)}")
        self._tar = TarSource([str(path) for path in shards(split)])
        self._captions = captions
        self.sample_bytes = self._tar.sample_bytes

    def __len__(self) -> int:
        return len(self._tar)

    def __getitem__(self, index: int) -> Sample:
        sample = self._tar[index]
        name = sample.captions[0]
        full = ", ".join([name, *sample.extra.get("tags", ())])
        captions = {"name": [name], "tags": [full], "both": [name, full]}[self._captions]
        return sample._replace(captions=list(dict.fromkeys(captions)))

    def fingerprint(self) -> str:
        """Changes with the shards and with how captions are made."""
        return digest(self._tar.fingerprint(), self._captions)
