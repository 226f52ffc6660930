"""The changelog's part of a version, for the notes of its release: `python .github/notes.py v1.2.3`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str) -> str:
    """The part of CHANGELOG.md about a tag.

    Raises:
        SystemExit: the tag is not the version that zoo/__init__.py states, or the changelog has no such part.
    """
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "zoo" / "__init__.py").read_text(encoding="utf-8"), re.M)[1]
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, zoo/__init__.py states {version}")
    parts = re.split(r"^## \[(.+?)\].*\n", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    found = dict(zip(parts[1::2], parts[2::2])).get(version)
    if found is None:
        sys.exit(f"CHANGELOG.md has no part ## [{version}]")
    return found.strip()


if __name__ == "__main__":
    print(notes(sys.argv[1]))
