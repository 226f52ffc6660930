"""`import zoo` is light, the command line answers at once, families stay apart, the wheel holds what it should."""

import ast
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

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
    import zoo.foreign

    assert all(callable(getattr(zoo, name)) for name in zoo.__all__)


@pytest.mark.parametrize(
    "argv", [["ls"], ["info", "bilinear_d256.mnist"], ["--help"], ["fit", "--help"], ["ls", "--json"]]
)
def test_the_command_line_answers_without_torch_and_in_no_time(argv):
    best = float("inf")
    for _ in range(5):  # the best of five: a shared machine is noisy, and only ever slower
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "zoo.cli", *argv], capture_output=True, check=True, cwd=ROOT)
        best = min(best, time.perf_counter() - start)
    assert best < 0.3
    assert not modules_after(f"from zoo.cli import main; main({argv!r})") & {"torch", *HEAVY}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def test_who_may_import_whom():
    from zoo.registry import FAMILIES

    for family in FAMILIES:
        others = {f"zoo.{f}" for f in FAMILIES if f != family}
        for path in (ROOT / "zoo" / family).glob("*.py"):
            found = imports_of(path)
            assert not {n for n in found for o in others if n == o or n.startswith(f"{o}.")}, path
        allowed = {"torch", "zoo", "typing", "math", "collections", "dataclasses", "functools", "warnings", "itertools"}
        allowed |= {"copy"}
        assert {n.split(".")[0] for n in imports_of(ROOT / "zoo" / family / "model.py")} <= allowed
        inside = {n for n in imports_of(ROOT / "zoo" / family / "model.py") if n.startswith("zoo.")}
        assert all(
            n.startswith(("zoo.layers", "zoo.tiles", "zoo.frozen", f"zoo.{family}.")) or n == f"zoo.{family}"
            for n in inside
        )
    for light in ("registry.py", "cli.py", "__init__.py"):
        top = [
            n for n in ast.parse((ROOT / "zoo" / light).read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
        assert not names & {"torch", *HEAVY}


def test_only_hub_and_card_know_the_hub_client():
    knows = {
        p.name for p in (ROOT / "zoo").rglob("*.py") if any(n.startswith("huggingface_hub") for n in imports_of(p))
    }
    assert knows == {"hub.py", "card.py"}


def test_nothing_is_unpickled_without_weights_only():
    for path in (ROOT / "zoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and k.value.value is True for k in node.keywords), path
        assert not imports_of(path) & {"pickle", "dill", "joblib"}, path


def test_the_wheel_holds_zoo_and_nothing_else_at_top_level(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("latentzoo-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0].partition("-")[0] for n in names} == {"zoo", "latentzoo"}
    assert wheel.stat().st_size < 100e6
    for needed in (
        "zoo/py.typed",
        "zoo/bilinear/card.md",
        "zoo/recipes/bilinear/mnist.yaml",
        "zoo/checkpoints/bilinear_d256.mnist/model.safetensors",
        "zoo/mae/card.md",
        "zoo/recipes/mae/smoke.yaml",
        "zoo/data/samples/mnist/README.md",
        "zoo/data/samples/sprites/README.md",
        "zoo/data/samples/sprite_sheets/body/0.png",
        "zoo/data/samples/photos/cat.jpg",
    ):
        assert needed in names
    assert len([n for n in names if n.startswith("zoo/recipes/") and n.endswith(".yaml")]) == len(
        list((ROOT / "recipes").rglob("*.yaml"))
    )
