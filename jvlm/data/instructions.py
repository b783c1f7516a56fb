"""Instruction data: conversations about pictures in LLaVA's JSON or in the messages layout."""

import json
from typing import Any

from etils import epath

from jvlm.core.errors import UserError
from jvlm.data.conversations import Conversation, messages_of, picture_file, require_answers
from jvlm.data.sources import digest
from jvlm.data.tables import read_table


class InstructionSource:
    """Records of `path` (`.json` with a list, or `.jsonl`), pictures under `images` (by default the file's folder).

    `answered` asks for an answer in every turn of the assistant (False for data that is only asked). UserError for a
    file that cannot be read; records that make no conversation are BadSamples.
    """

    def __init__(self, path: str, images: str | None = None, answered: bool = True):
        self.path = epath.Path(path)
        self.folder = epath.Path(images) if images else self.path.parent
        self.answered = answered
        self.records = read_records(self.path)
        self.sample_bytes = max(1, self.path.stat().length // len(self.records))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Conversation:
        record = self.records[index]
        where = f"{self.path.name}: record {index + 1}"
        messages, names = messages_of(record, where)
        if self.answered:
            require_answers(messages, where)
        images = [picture_file(self.folder, name, where) for name in names]
        extra = {k: v for k, v in record.items() if k not in ("conversations", "messages", "image", "images", "id")}
        return Conversation(messages, list(images), str(record.get("id", where)), extra)

    def fingerprint(self) -> str:
        """Changes with the records."""
        return digest("instructions", self.records, self.answered)


def read_records(path: epath.Path) -> list[Any]:
    """The objects of a `.json` list or of a `.jsonl`; UserError names the file, and the line that is broken."""
    if path.suffix != ".json":
        return list(read_table(path))
    records = read_json(path)
    if not isinstance(records, list) or not records:
        found = "an empty list" if isinstance(records, list) else f"a JSON {type(records).__name__}"
        raise UserError(f"{path}: expected a list of records, found {found}")
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise UserError(f"{path}: record {number} is not a JSON object")
    return records


def read_json(path: epath.Path) -> Any:
    """A JSON file; UserError when there is none or where it is broken."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such file") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); fetch it again") from error
