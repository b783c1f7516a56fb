"""Documents in which texts and pictures alternate: OBELICS' and MMC4's layouts, one JSON object a line."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from jvlm.core.errors import UserError
from jvlm.data.conversations import Conversation, picture_file
from jvlm.data.sources import BadSample, digest
from jvlm.data.tables import read_table


class InterleavedSource:
    """Documents of the JSONL `path`, pictures under `images` (by default the file's folder).

    `texts` and `images` of equal length, one of the two null at each place (OBELICS, arXiv:2306.16527), or `text_list`
    and `image_info` with `image_name` and `matched_text_index`, a picture standing before its text (MMC4,
    arXiv:2304.06939). A document becomes one message of the assistant: all its text is to be learnt.
    """

    def __init__(self, path: str, images: str | None = None):
        self.path = epath.Path(path)
        self.folder = epath.Path(images) if images else self.path.parent
        if self.path.suffix not in (".jsonl", ".ndjson"):
            raise UserError(f"{path}: expected a .jsonl, one document a line")
        self.documents = read_table(self.path)
        self.sample_bytes = max(1, self.path.stat().length // len(self.documents))

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Conversation:
        document = self.documents[index]
        where = f"{self.path.name}: document {index + 1}"
        pieces = _matched(document, where) if "text_list" in document else _alternating(document, where)
        parts = [{"type": "image"} if text is None else {"type": "text", "text": text} for text, _ in pieces]
        if not any((text or "").strip() for text, _ in pieces):
            raise BadSample(f"{where}: no text", "empty answer")
        images = [picture_file(self.folder, name, where) for text, name in pieces if text is None]
        return Conversation([{"role": "assistant", "content": parts}], list(images), str(document.get("id", where)))

    def fingerprint(self) -> str:
        """Changes with the documents."""
        return digest("interleaved", self.documents)


def _alternating(document: Mapping[str, Any], where: str) -> list[tuple[str | None, Any]]:
    texts, images = document.get("texts"), document.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        raise BadSample(f"{where}: 'texts' and 'images' are not lists of one length", "broken record")
    if any((text is None) == (image is None) for text, image in zip(texts, images)):
        raise BadSample(f"{where}: a place with both a text and a picture, or neither", "broken record")
    return list(zip(texts, images))


def _matched(document: Mapping[str, Any], where: str) -> list[tuple[str | None, Any]]:
    texts = document["text_list"]
    before: dict[int, list[Any]] = {}
    for one in document.get("image_info") or ():
        at = one.get("matched_text_index")
        if not isinstance(at, int) or not 0 <= at < len(texts):
            raise BadSample(f"{where}: a picture before text {at} of {len(texts)}", "broken record")
        before.setdefault(at, []).append(one.get("image_name"))
    return [
        piece
        for at, text in enumerate(texts)
        for piece in [*((None, name) for name in before.get(at, ())), (text, None)]
    ]
