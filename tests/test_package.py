"""The package as a thing to install: bounds that were tried, one version, workflows whose commands exist."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import LONG
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import zoo
from zoo.cli import VERBS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OF_THE_PROJECT = ("test", "test-all", "bench", "all")  # extras of whoever works on it, and the others together
OLDEST = dict(line.split("==") for line in (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").split())


def needed(*requirements: str) -> dict[str, Requirement]:
    found = [Requirement(line) for line in requirements]
    return {canonicalize_name(r.name): r for r in found if r.name != PROJECT["name"]}


def modules(path: Path) -> list[tuple[ast.AST, str]]:
    """The imports of a file, inside functions too: node and the first part of what it imports."""
    nodes = [
        n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    names = lambda n: [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module or ""]  # noqa: E731
    return [(node, name.partition(".")[0]) for node in nodes for name in names(node)]


def test_each_lower_bound_is_the_version_that_the_oldest_environment_holds():
    asked = needed(
        *PROJECT["dependencies"], *(r for name in EXTRAS if name not in OF_THE_PROJECT for r in EXTRAS[name])
    )
    oldest = {canonicalize_name(name): version for name, version in OLDEST.items()}
    for name, requirement in asked.items():
        bounds = [s.version for s in requirement.specifier if s.operator == ">="]
        assert len(bounds) == 1, f"{name} states no lower bound"
        assert Version(Version(oldest[name]).base_version) == Version(bounds[0]), name


def test_what_a_short_test_imports_is_what_make_test_installs():
    """A package of `test-all` alone is imported inside tests that are marked long."""
    heavy = set(needed(*EXTRAS["test-all"])) - set(needed(*PROJECT["dependencies"], *EXTRAS["test"]))
    heavy = {{"scikit-learn": "sklearn"}.get(name, name) for name in heavy}
    assert {"sklearn", "transformers", "olah"} <= heavy
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if path.name in LONG:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        allowed = {
            inner
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and any(
                ast.unparse(d) in ("pytest.mark.long", "pytest.fixture(scope='module')") for d in node.decorator_list
            )
            for inner in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        for node, name in modules(path):
            assert name not in heavy or node.lineno in allowed, f"{path.name}:{node.lineno} imports {name}"


def test_private_names_of_others_are_those_that_the_upper_bounds_name():
    """What has a leading underscore and is defined nowhere in the package is somebody else's."""
    own, used = set(), set()
    for path in (ROOT / "zoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef() | ast.ClassDef():
                    own.add(node.name)
                case ast.Name(ctx=ast.Store()):
                    own.add(node.id)
                case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                    own.add(node.attr)
                case ast.Attribute():
                    used.add(node.attr)
                case ast.ImportFrom():
                    used |= {alias.name for alias in node.names}
                case ast.Call(
                    func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]
                ):
                    used.add(name)
    private = {name for name in used - own if re.match("_[A-Za-z]", name)}
    hooks = {"_layer_sync", "_data_fetcher", "_should_check_val_fx", "_MultiProcessingLauncher", "_hparams_initial"}
    hooks |= {"_NoTrainLpips"}
    torchs = {"_BatchNorm", "_fused_rms_norm", "_local_scalar_dense", "_to_copy", "_cdata", "_softmax_backward_data"}
    torchs |= {"_overloadpacket"}
    assert private == hooks | torchs | {"_asdict", "_replace"}  # those of a NamedTuple are public
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(name in text for name in hooks)
    for name in ("lightning", "torchmetrics"):
        assert [s for s in needed(*PROJECT["dependencies"])[name].specifier if s.operator == "<"], name


# One version


def test_the_version_is_semantic_and_every_page_has_the_one_of_the_package():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", zoo.__version__)
    assert PROJECT["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == zoo.__version__
    parts = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert parts[0] in ("Unreleased", zoo.__version__)
    assert len(parts) == len(set(parts))


def test_a_release_is_refused_under_another_version_and_its_notes_are_the_changelogs(tmp_path):
    for place, text in (
        (".github/notes.py", (ROOT / ".github" / "notes.py").read_text(encoding="utf-8")),
        ("zoo/__init__.py", '__version__ = "0.2.0"\n'),
        (
            "CHANGELOG.md",
            "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2027-01-01\n\n### Weights\n- x\n\n## [0.1.0]\n- y\n",
        ),
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text, encoding="utf-8")

    def notes(tag):
        argv = [sys.executable, str(tmp_path / ".github" / "notes.py"), tag]
        done = subprocess.run(argv, capture_output=True, text=True)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert notes("v0.2.0") == (0, "### Weights\n- x")
    assert notes("v0.3.0") == (1, "the tag is v0.3.0, zoo/__init__.py states 0.2.0")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n", encoding="utf-8")
    assert notes("v0.2.0") == (1, "CHANGELOG.md has no part ## [0.2.0]")


# Workflows and forms

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def commands(workflow: Path) -> list[str]:
    """The lines that a workflow runs."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    return [line for job in jobs for step in job["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_exists(workflow):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    lines = commands(workflow)
    assert lines
    for line in lines:
        for target in re.findall(r"\bmake (?:\w+=\S+ )*([\w-]+)", line):
            assert target in targets, line
        for extra in re.findall(r"'\.\[([\w,-]+)\]'", line):
            assert set(extra.split(",")) <= EXTRAS.keys(), line
        for file in re.findall(r"[\w./-]+\.(?:py|txt|toml|cff)\b", line):
            assert (ROOT / file).is_file(), line
        for verb in re.findall(r"(?:^|/)zoo (\w+)", line):
            assert verb in VERBS, line


def test_workflows_are_read_only_but_for_a_release_and_keep_no_token():
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        assert "secrets." not in text
        wider = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
        assert wider == (
            {"publish": {"id-token": "write"}, "notes": {"contents": "write"}} if path.stem == "release" else {}
        )


def test_the_core_that_other_systems_run_is_there_and_needs_no_posix():
    core = (ROOT / "tests" / "core.txt").read_text(encoding="utf-8").split()
    for name in core:
        path = ROOT / name
        assert path.is_file(), name
        assert path.name not in LONG, name
        assert not {module for _, module in modules(path)} & {"fcntl", "resource", "pty", "termios"}, name
