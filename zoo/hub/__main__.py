"""`python -m zoo.hub` writes again what is generated: MODEL_CARD.md, the README's table, cards, type stubs."""

from zoo.hub import card, readme, stubs

for path, text in (card.refresh() | stubs.refresh() | readme.refresh()).items():
    path.write_text(text, encoding="utf-8")
