"""A source of whose samples something else is said: another text, another weight in the loss, of one label alone."""

from collections.abc import Sequence
from typing import Any

from jvlm.core.errors import ConfigError
from jvlm.data.sources import Sample, Source, Subset, digest, head


class Annotated:
    """The samples of `source`, of `label` alone where one is given, with `prompts` as captions and a `loss_weight`.

    `{}` in a prompt stands for the sample's own first caption. Pictures of a subject and of its class in DreamBooth are
    two of these in a mixture (Ruiz et al., arXiv:2208.12242, section 3.2).
    """

    def __init__(
        self,
        source: Source,
        prompts: str | Sequence[str] = (),
        loss_weight: float | int = 1.0,
        label: int | None = None,
    ) -> None:
        if loss_weight <= 0:
            raise ConfigError(f"data.loss_weight = {loss_weight}; give more than 0, or leave the samples out")
        if label is not None:
            chosen = [index for index in range(len(source)) if source[index].label == label]
            if not chosen:
                raise ConfigError(f"data.label = {label}: no sample has that label")
            source = Subset(source, chosen)
        self.source, self.loss_weight = source, float(loss_weight)
        self.prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        self.sample_bytes = source.sample_bytes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        sample: Any = self.source[index]
        if not isinstance(sample, Sample):
            raise ConfigError("data.prompts and data.loss_weight are for captioned pictures, not for conversations")
        own = sample.captions[0] if sample.captions else ""
        captions = [text.replace("{}", own) for text in self.prompts] or sample.captions
        return sample._replace(captions=captions, weight=self.loss_weight)

    def head(self, index: int, size: int) -> bytes:
        """The beginning of a picture: see `sources.head`."""
        return head(self.source, index, size)

    def fingerprint(self) -> str:
        """Changes with the source and with what is said of it."""
        return digest("annotated", self.source.fingerprint(), self.prompts, self.loss_weight)
