"""`import zoo` is light, the command line answers at once, families stay apart, the wheel holds what it should."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import registry

ROOT = Path(__file__).parents[1]
HEAVY = (
    "lightning",
    "torchvision",
    "timm",
    "torchmetrics",
    "datasets",
    "matplotlib",
    "jsonargparse",
    "huggingface_hub",
)


def modules_after(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_zoo_loads_no_torch():
    assert not modules_after("import zoo; zoo.list_models(); zoo.list_weights()") & {"torch", *HEAVY}


def test_loading_an_embedded_checkpoint_loads_only_torch():
    found = modules_after("import zoo; zoo.load('bilinear_d256.mnist'); zoo.create('bilinear_d64')")
    assert "torch" in found
    assert not found & set(HEAVY)


def test_the_public_names_are_there_and_stay_functions():
    import zoo
    import zoo.hub.foreign

    assert all(callable(getattr(zoo, name)) for name in zoo.__all__)


@pytest.mark.parametrize(
    "argv", [["ls"], ["info", "bilinear_d256.mnist"], ["--help"], ["fit", "--help"], ["ls", "--json"]]
)
def test_the_command_line_answers_without_torch(argv):
    assert not modules_after(f"from zoo.cli import main; main({argv!r})") & {"torch", *HEAVY}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


# Who stands on whom: a module imports what is below its own floor, or beside it.
FLOORS = ("registry", "nn", "metrics", "hub", "data", "train", "report", "families", "cli")
FLOOR = {"recipe": "registry", "redact": "registry", "": "registry", "demo": "cli"}  # "" is `import zoo` itself
MODULES = {
    ".".join(("zoo", *p.relative_to(ROOT / "zoo").with_suffix("").parts)).removesuffix(".__init__"): p
    for p in (ROOT / "zoo").rglob("*.py")
}


def floor(module: str) -> int:
    name = module.partition(".")[2].partition(".")[0]
    return FLOORS.index(FLOOR.get(name, name))


def own_imports(module: str) -> set[str]:
    """Modules of this package that one imports, inside functions too; `from zoo import hub` is one of zoo.hub."""
    found = {n for n in imports_of(MODULES[module]) if n.split(".")[0] == "zoo"}
    inner = {n for n in found if n in MODULES}
    names = {n.rpartition(".")[0] for n in found - inner}
    parents = {n.rpartition(".")[0] for n in inner}  # `from zoo.hub import files` needs the package, and names the file
    return (inner | (names & MODULES.keys())) - {module} - (parents - {n for n in names if n in MODULES})


def test_no_module_imports_from_a_floor_above():
    assert not [(m, n) for m in MODULES if m != "zoo" for n in own_imports(m) if floor(n) > floor(m)]


def test_no_modules_import_one_another_in_a_circle():
    rest = {m: own_imports(m) for m in MODULES}
    while free := [m for m, needs in rest.items() if not needs & rest.keys()]:
        for m in free:
            del rest[m]
    assert not rest


def test_families_stay_apart_and_a_model_file_is_the_paper():
    allowed = {"torch", "zoo", "typing", "math", "collections", "dataclasses", "functools", "warnings", "itertools"}
    allowed |= {"copy"}
    for name in (f.name for f in registry.families().values() if f.ours):
        here = f"zoo.families.{name}"
        for module in (m for m in MODULES if m.startswith(f"{here}.")):
            others = {n for n in imports_of(MODULES[module]) if n.startswith("zoo.families.")}
            assert all(n == here or n.startswith(f"{here}.") for n in others), module
        found = imports_of(MODULES[f"{here}.model"])
        assert {n.split(".")[0] for n in found} <= allowed
        assert all(n.startswith(("zoo.nn", f"{here}.")) or n == here for n in found if n.startswith("zoo."))


def words(path: Path) -> set[str]:
    """String constants of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    return {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in docs
    }


def test_nothing_outside_the_families_names_one():
    ours = [f.name for f in registry.families().values() if f.ours]
    named = {*ours, *(a for f in ours for a in registry.facts(f).archs)}
    for module, path in MODULES.items():
        if module.startswith("zoo.families."):
            continue
        assert not {n for n in imports_of(path) if n.startswith("zoo.families.")}, module
        for word in words(path):
            assert word not in named, f"{module} names {word}"
            assert not word.startswith(tuple(f"{f}/" for f in ours)), f"{module} names {word}"
            assert word.partition(".")[0] not in named, f"{module} names {word}"


def test_the_top_level_stays_short_and_so_does_each_file():
    top = {p.stem if p.suffix == ".py" else p.name for p in (ROOT / "zoo").iterdir() if p.is_dir() or p.suffix == ".py"}
    assert len(top - {"__pycache__", "index"}) <= 14
    for path in MODULES.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 700, path


def test_light_modules_load_nothing_heavy():
    here = ROOT / "zoo"
    for light in (here / "registry.py", here / "__init__.py", *(here / "cli").glob("*.py")):
        top = [n for n in ast.parse(light.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
        assert not names & {"torch", *HEAVY}


def test_only_the_hub_wing_knows_the_hub_client():
    knows = {
        p.name for p in (ROOT / "zoo").rglob("*.py") if any(n.startswith("huggingface_hub") for n in imports_of(p))
    }
    assert knows == {"fetch.py", "give.py"}


@pytest.mark.parametrize(
    ("module", "knows"),
    [("datasets", {"tables.py"}), ("av", {"video.py"}), ("pandas", set()), ("pillow_heif", {"pictures.py"})],
)
def test_what_is_an_extra_is_imported_in_one_place_where_it_is_needed(module, knows):
    files = [p for p in (ROOT / "zoo").rglob("*.py") if module in {n.split(".")[0] for n in imports_of(p)}]
    assert {p.name for p in files} == knows
    for path in files:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        at_once = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not [n for n in at_once if re.search(rf"\b(import|from) {module}\b", ast.unparse(n))], path


def test_nothing_is_unpickled_without_weights_only():
    for path in (ROOT / "zoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and k.value.value is True for k in node.keywords), path
        assert not imports_of(path) & {"pickle", "dill", "joblib"}, path


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    """Benchmarks run seldom: names that moved are noticed here. Peers need not be installed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("zoo", "benchmarks"):
            module = importlib.import_module(node.module) if node.module.startswith("zoo") else None
            names = {a.name for a in node.names}
            if module is None:  # read, not run: it may need a peer
                file = ROOT.joinpath(*node.module.split(".")).with_suffix(".py")
                there = words_at_top(file) if file.is_file() else {p.stem for p in (ROOT / "benchmarks").glob("*.py")}
                assert names <= there, f"{node.module} has no {names - there}"
            else:
                for name in names:
                    assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), name


def words_at_top(path: Path) -> set[str]:
    """Names that a module binds at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bound = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            bound |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return bound
