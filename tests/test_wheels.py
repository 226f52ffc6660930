"""What is installed: the core's wheel, torch.hub's zip, the sdist, the wheel of weights; what they hold and do."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from zoo import registry

ROOT = Path(__file__).parents[1]
CORE = {
    *("bilinear_d256.mnist", "vqvae_conv_small.mnist", "dcae_tiny_f8c4.tiny_imagenet"),
    *("mae_vit_tiny.tiny_imagenet", "rae_mae_vit_tiny.tiny_imagenet"),
}
MOST = 30e6  # bytes of the core, packed


def build(what: Path, output: Path, *more: str) -> Path:
    """A wheel or an sdist of a folder with a pyproject.toml."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", output, *more, what]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = output.iterdir()
    return built


def package(names, prefix: str = "") -> set[str]:
    """The files of the package among names, recipes at their place in a checkout, compiled ones left out."""
    names = {name.removeprefix(prefix).replace("zoo/recipes/", "recipes/", 1) for name in names if name[-1] != "/"}
    return {name for name in names if name.startswith(("zoo/", "recipes/")) and "__pycache__" not in name}


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("core"), "--wheel")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The wheel of the larger checkpoints, of an sdist of them: what the index gets."""
    sdist = build(ROOT / "weights", tmp_path_factory.mktemp("sdist"), "--sdist")
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    return build(next(unpacked.iterdir()), tmp_path_factory.mktemp("weights"), "--wheel")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """What `git archive` makes of this checkout's files, as GitHub does for torch.hub, unpacked."""
    place = tmp_path_factory.mktemp("archive")

    def git(*argv):
        how = ["git", f"--git-dir={place}/.git", f"--work-tree={ROOT}", "-c", "user.name=x", "-c", "user.email=x@x"]
        return subprocess.run([*how, *argv], capture_output=True, check=True).stdout

    subprocess.run(["git", "init", "--quiet", place], check=True)
    git("-c", "core.compression=0", "add", ".")
    git("commit", "--quiet", "-m", "all")
    (place / "zoo.zip").write_bytes(git("archive", "--format=zip", "--prefix=zoo-main/", "HEAD"))
    with zipfile.ZipFile(place / "zoo.zip") as file:
        file.extractall(place)
    shutil.rmtree(place / ".git")
    return place / "zoo-main"


@pytest.fixture(scope="module")
def installed(core, weights, tmp_path_factory):
    """Both wheels, each in a folder of its own: an installation without their dependencies."""
    places = []
    for wheel in (core, weights):
        places.append(tmp_path_factory.mktemp("site"))
        with zipfile.ZipFile(wheel) as file:
            file.extractall(places[-1])
    return places


def run(code: str, *path: Path, **more: str) -> subprocess.CompletedProcess:
    """Python with these folders first; of this environment, latentzoo-weights is not seen."""
    hide = "import sys; sys.modules['latentzoo_weights'] = None\n" if len(path) == 1 else ""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | more
    command = [sys.executable, "-c", hide + code]
    return subprocess.run(command, cwd=path[0], env=env, capture_output=True, text=True)


def test_the_core_wheel_is_small_and_holds_what_the_first_minute_needs(core):
    names = zipfile.ZipFile(core).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"zoo", "latentzoo"}
    assert core.stat().st_size < MOST
    assert {name.split("/")[2] for name in names if name.endswith("model.safetensors")} == CORE
    for needed in (
        *("zoo/py.typed", "zoo/checkpoints/index.json", "zoo/families/bilinear/card.md", "zoo/recipes/mae/smoke.yaml"),
        *("zoo/data/samples/mnist/README.md", "zoo/data/samples/sprites/README.md", "zoo/data/samples/photos/cat.jpg"),
        "zoo/data/samples/sprite_sheets/body/0.png",
    ):
        assert needed in names
    assert package(names) == package(str(p.relative_to(ROOT)) for r in ("zoo", "recipes") for p in files(ROOT / r))


def files(folder: Path):
    return (path for path in folder.rglob("*") if path.is_file())


def test_torch_hub_gets_the_files_of_the_wheel(core, archive):
    names = {path.relative_to(archive).as_posix() for path in files(archive)}
    assert package(names) == package(zipfile.ZipFile(core).namelist())
    assert (archive.parent / "zoo.zip").stat().st_size < MOST
    assert "hubconf.py" in names
    assert not [name for name in names if name.startswith(("weights/", "benchmarks/")) or Path(name).suffix == ".gif"]


def test_the_sdist_leaves_out_what_the_archive_does(archive, tmp_path):
    with tarfile.open(build(ROOT, tmp_path, "--sdist")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    left = {path.relative_to(archive).as_posix() for path in files(archive)}
    assert names - {"PKG-INFO"} <= left
    assert {"pyproject.toml", "README.md", "LICENSE", "zoo/registry.py", "recipes/mae/smoke.yaml"} <= names


def test_both_wheels_together_load_and_verify_all_that_ship(installed):
    code = "from zoo import cli; import zoo; print(zoo.__file__); raise SystemExit(cli.main(['verify']))"
    done = run(code, *installed)
    assert done.returncode == 0, done.stdout + done.stderr
    where, *lines = done.stdout.splitlines()
    assert Path(where).parents[1] == installed[0]
    shipped = [w.name for w in registry.records().values() if w.embedded]
    assert [line.split()[1] for line in lines] == shipped
    assert all("golden: ok" in line for line in lines)


def test_the_core_alone_knows_all_records_and_says_what_to_install(installed):
    code = """
import json, zoo
from zoo import cli, registry
print(json.dumps([registry.plain(record) for record in registry.records().values()]))
cli.main(["ls"])
cli.main(["info", "qlae_conv.rendered"])
for name in ("bilinear_d256.mnist", "qlae_conv.rendered"):
    try:
        print(type(zoo.load(name)).__name__)
    except FileNotFoundError as error:
        print(error)
raise SystemExit(cli.main(["verify"]))
"""
    done = run(code, installed[0])
    assert done.returncode == 0, done.stderr
    records, *lines = done.stdout.splitlines()
    known = [registry.plain(record) for record in registry.records().values()]
    assert json.loads(records) == json.loads(json.dumps(known))
    get = "pip install latentzoo-weights"
    assert "BilinearClassifier" in lines
    assert f"qlae_conv.rendered ships with latentzoo-weights, which is not installed: {get}" in lines
    assert any(line.split()[0] == "qlae_conv.rendered" and "not here: pip install" in line for line in lines)
    assert "name: qlae_conv.rendered  not here, pip install latentzoo-weights" in lines
    assert sum(line.endswith("golden: ok") for line in lines) == len(CORE)


def test_weights_of_another_version_than_the_core_are_named(installed, tmp_path):
    core, weights = installed
    other = shutil.copytree(weights, tmp_path / "other")
    shutil.rmtree(other / "latentzoo_weights" / "qlae_conv.rendered")
    meta = next(other.glob("*.dist-info"))
    meta.rename(meta.with_name("latentzoo_weights-0.0.9.dist-info"))
    (other / "latentzoo_weights-0.0.9.dist-info" / "METADATA").write_text("Name: latentzoo-weights\nVersion: 0.0.9\n")
    config = other / "latentzoo_weights" / "vqprior_tiny.mnist" / "config.json"
    config.write_text(config.read_text().replace("CC BY-SA 3.0", "CC0"))
    code = """
import zoo
for name in ("qlae_conv.rendered", "vqprior_tiny.mnist", "vqvae_conv_small.cifar10"):
    try:
        print(type(zoo.load(name)).__name__)
    except (ValueError, FileNotFoundError) as error:
        print(error)
"""
    lines = run(code, core, other).stdout.splitlines()
    assert (
        "latentzoo-weights, and version 0.0.9 of it, which is installed, lacks it: pip install --force-reinstall"
        in lines[0]
    )
    assert "has another data_terms than the record of vqprior_tiny.mnist" in lines[1]
    assert "or is of another version of latentzoo-weights" in lines[1]
    assert lines[2] == "VQVAE"  # what it has is what it was


def test_a_bundle_brings_what_the_core_lacks(installed, tmp_path):
    pack = f"""
from zoo import cli
argv = ["bundle", "vqprior_tiny.mnist", "mae_vit_tiny.tiny_imagenet", "-o", {str(tmp_path / "b")!r}]
raise SystemExit(cli.main(argv))
"""
    done = run(pack, *installed)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["vqprior_tiny.mnist"]
    code = """
import torch, zoo
model = zoo.load("vqprior_tiny.mnist").eval()
print(tuple(model.sample(torch.tensor([3, 7])).shape))
"""
    done = run(code, installed[0], ZOO_CACHE=str(tmp_path / "b"))
    assert done.stdout.strip() == "(2, 1, 28, 28)", done.stderr
    (tmp_path / "b" / "checkpoints" / "vqprior_tiny.mnist" / "model.safetensors").unlink()
    done = run(code, installed[0], ZOO_CACHE=str(tmp_path / "b"))
    assert "vqprior_tiny.mnist/model.safetensors" in done.stderr.splitlines()[-1]


def test_torch_hub_loads_from_its_zip(archive):
    code = f"""
import torch
model = torch.hub.load({str(archive)!r}, "mae_vit_tiny", source="local", weights="tiny_imagenet").eval()
print(tuple(model.forward_features(torch.rand(1, 3, 64, 64)).shape))
try:
    torch.hub.load({str(archive)!r}, "qlae_conv", source="local", weights="rendered")
except FileNotFoundError as error:
    print(error)
"""
    done = run(code, archive)
    assert done.stdout.splitlines()[0] == "(1, 65, 192)", done.stderr
    assert "qlae_conv.rendered ships with latentzoo-weights, which is not installed" in done.stdout
