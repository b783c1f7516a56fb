"""Which dataset a path is, told from its name and, for a folder, from the names in it."""

import glob

from etils import epath

from jvlm.core.errors import UserError

SHARDS = {".tar": "tar", ".array_record": "array_record", ".parquet": "parquet"}
TABLES = (".jsonl", ".csv", ".tsv", ".ndjson")


def recognised(path: epath.PathLike) -> dict[str, str] | None:
    """Fields of `open_data` for shards or a glob, a table, a folder of shards, or of pictures beside one table.

    None for a folder of neither. UserError for what is not there or not known, and for a folder of several tables.
    """
    path = epath.Path(path)
    if path.is_dir():
        inside = sorted(path.iterdir())
        tables = [p for p in inside if p.suffix in TABLES]
        found = next((kind for suffix, kind in SHARDS.items() if any(p.suffix == suffix for p in inside)), None)
        if found:
            return {"name": found, "paths": str(path)}
        if len(tables) > 1:
            names = ", ".join(p.name for p in tables[:5])
            raise UserError(f"{path} has {len(tables)} tables, name one of them: {names}")
        return {"name": "table", "path": str(tables[0])} if tables else None
    if not path.exists() and not glob.has_magic(str(path)):
        raise UserError(f"{path} does not exist; give shards, a table or a folder")
    if path.suffix in SHARDS:
        return {"name": SHARDS[path.suffix], "paths": str(path)}
    if path.suffix in TABLES:
        return {"name": "table", "path": str(path)}
    endings = ", ".join((*SHARDS, *TABLES))
    raise UserError(f"{path}: what it is cannot be told from its name; give its format, or a name in {endings}")
