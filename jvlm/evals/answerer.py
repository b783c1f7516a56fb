"""What an evaluation of a multimodal model asks for: texts that continue prompts, and how likely given texts are."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer

from jvlm.data.image_ops import Picture


class Prompt(NamedTuple):
    """Messages in parts (`data/chat.py`), to be answered next, and the pictures of their image parts in order.

    Pictures are file paths or bytes. A prompt may have none.
    """

    messages: Sequence[dict[str, Any]]
    pictures: Sequence[Picture] = ()


@runtime_checkable
class Answerer(Protocol):
    """A model with its preprocessing and its chat template; batches, buckets and meshes are its own affair."""

    vocab_size: int

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """The greedy answer to each prompt, special tokens left out, in the order given."""
        ...

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str]
    ) -> tuple[Float[np.ndarray, "n"], Integer[np.ndarray, "n"]]:
        """Per pair: the sum of the natural log-probabilities of the continuation's tokens, and their number.

        The continuation stands where the answer would, after the generation prompt, without an end token.
        """
        ...
