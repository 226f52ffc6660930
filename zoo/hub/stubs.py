"""The type stubs of `zoo` and of its families: what is public, and which class a name gives.

Public names are looked up when they are asked for, which no type checker follows; `python -m zoo.hub` writes down what
the look-up finds.
"""

import textwrap
from collections.abc import Iterable
from pathlib import Path

from zoo import registry
from zoo.hub.make import model_class

HEADER = "# Written by `python -m zoo.hub`: what is public, and which class a name gives.\n"
CREATE = "def create(arch: {}, weights: str | None = None, **args: Any) -> {}: ..."
LOAD = "def load(name: {}, *, mmap: bool | None = None, **args: Any) -> {}: ..."
CONVERT = (
    "def convert(source: str | Path | Mapping[str, Any], arch: {}, *, take: str | None = None, "
    "stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> {}: ..."
)
LOAD_AS = "def load(name: str, model_class: type[M], *, mmap: bool | None = None, **args: Any) -> M: ..."


def refresh() -> dict[Path, str]:
    """What the stubs should say, by file; families of other distributions are not in them."""
    families = [family for family in registry.families().values() if family.ours]
    archs = [arch for family in families for arch in registry.facts(family.name).archs]
    names = [record.name for family in families for record in registry.facts(family.name).weights]
    homes = {name: module for name, module in registry.public().items() if name not in ("create", "load", "convert")}
    texts = {
        registry.HOUSE / "__init__.pyi": "\n".join(
            [
                HEADER,
                "from collections.abc import Mapping\nfrom pathlib import Path",
                "from typing import Any, Literal, TypeVar, overload\n",
                "from torch import nn\n",
                "from zoo.nn.protocols import Network",
                *_imports({name: module for name, module in homes.items() if _ours(module)}),
                "\n__version__: str",
                '__all__: list[str]\n\nM = TypeVar("M", bound=nn.Module)\n',
                *_overloads(CREATE, archs),
                *_overloads(LOAD, names, LOAD_AS),
                *_overloads(CONVERT, archs),
                "",
            ]
        )
    }
    for family in families:
        public = {name: f"{family.package}.{module}" for name, module in registry.facts(family.name).public.items()}
        texts[family.folder / "__init__.pyi"] = "\n".join([HEADER, *_imports(public), "\n__all__: list[str]\n"])
    return texts


def _ours(module: str) -> bool:
    return not module.startswith("zoo.families.") or registry.families()[module.split(".")[2]].ours


def _imports(homes: dict[str, str]) -> list[str]:
    return sorted(f"from {module} import {name} as {name}" for name, module in homes.items())


def _overloads(signature: str, names: Iterable[str], *more: str) -> list[str]:
    """One for each class, with the names that give it, then those of any text."""
    by_class: dict[str, list[str]] = {}
    for name in names:
        by_class.setdefault(model_class(name.partition(".")[0]).__name__, []).append(f'"{name}"')
    lines = []
    for kind, its in by_class.items():
        text = textwrap.fill(", ".join(its), 112, break_long_words=False, break_on_hyphens=False)
        lines += ["@overload", signature.format(f"Literal[\n{textwrap.indent(text, ' ' * 4)}\n]", kind)]
    for other in (*more, signature.format("str", "Network")):
        lines += ["@overload", other]
    return lines
