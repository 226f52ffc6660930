"""Moves every field of the 14 records of our own from the families' facts.py into their folders' config.json, once."""

import json
from dataclasses import asdict, fields

from zoo import registry

DEFAULTS = {f.name: f.default for f in fields(registry.Weights)}
FILE = ("file", "sha256", "size")  # stay under `weights`

for record in registry.records().values():
    if not record.embedded:
        continue
    path = record.folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["weights"] == {key: getattr(record, key) for key in FILE}, path
    assert record.class_list is None, path
    told = json.loads(json.dumps(asdict(record)))  # tuples as lists
    for key in ("arch", "args", "name", "metrics"):
        assert config[key] == told.get(key, record.arch), (path, key)
    config |= {k: v for k, v in told.items() if k not in (*config, *FILE) and v not in (DEFAULTS[k], [])}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
