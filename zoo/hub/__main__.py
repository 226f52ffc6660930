"""`python -m zoo.hub` writes what is generated: index, cards, pages, type stubs, the README's table, THIRD_PARTY.md."""

from zoo import registry
from zoo.hub import card, index, notices, pages, readme, stubs

for generated in (index, card, pages, stubs, readme, notices):  # the index first: the others say what it says
    for path, text in generated.refresh().items():
        path.write_text(text, encoding="utf-8")
    registry.forget()
