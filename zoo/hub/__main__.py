"""`python -m zoo.hub` writes again what is generated: index, MODEL_CARD.md, pages, cards, type stubs."""

from zoo import registry
from zoo.hub import card, index, pages, readme, stubs

for generated in (index, card, pages, stubs, readme):  # the index first: the others say what it says
    for path, text in generated.refresh().items():
        path.write_text(text, encoding="utf-8")
    registry.forget()
