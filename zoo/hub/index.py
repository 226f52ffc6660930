"""The index of folders of checkpoints, their records in one file: what `zoo ls` and `zoo info` read."""

import json
from pathlib import Path

from zoo import registry


def text(folders: tuple[Path, ...]) -> str:
    """What the index of folders should say: each checkpoint's config.json as far as it is a record.

    Raises:
        ValueError: as `registry.read_records`'.
    """
    told = {record.name: registry.plain(record) for record in registry.read_records(folders)}
    for record in told.values():
        del record["name"]
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def refresh() -> dict[Path, str]:
    """What the house's index should say, by file."""
    return {Path("zoo", "checkpoints", registry.INDEX): text(registry.house_checkpoints())}
