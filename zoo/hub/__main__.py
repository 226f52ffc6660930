"""`python -m zoo.hub` writes again what is generated: MODEL_CARD.md, the cards of the checkpoints, the type stubs."""

from zoo.hub import card, stubs

for path, text in (card.refresh() | stubs.refresh()).items():
    path.write_text(text, encoding="utf-8")
