"""Other machines: Windows by its rules, workers that are spawned, pickles, umasks, consoles."""

import ast
import copy
import errno
import fcntl
import io
import os
import pickle
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import classes, small
from PIL import Image
from test_lit import CLASSES, TINY_DCAE
from test_lit import SMALL as SMALL_LIT

import zoo
from zoo import cli, hub
from zoo.data import cache, sharding
from zoo.data.clips import ClipData
from zoo.data.factors import FactorData
from zoo.data.images import ImageData
from zoo.data.latents import ImageLatentData, LatentData, write
from zoo.data.synthetic import RandomImages
from zoo.hub.files import WEIGHTS
from zoo.nn.frozen import Frozen
from zoo.nn.signatures import keywords
from zoo.train.callbacks import LAST

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
CODE = [*(ROOT / "zoo").rglob("*.py"), ROOT / "hubconf.py"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 24 RGB images of 16 px in two classes."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(12):
            file = root / split / f"class{i % 2}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    return root


@pytest.fixture(scope="module")
def latents(pictures, tmp_path_factory):
    """A folder of their latents, and the encoder's."""
    folder = tmp_path_factory.mktemp("latents")
    model = zoo.create("dcae_tiny_f4c4", **TINY_DCAE)
    encoder = zoo.save(model, folder / "encoder")
    return str(write(model, ImageData(str(pictures), 16, 3), folder / "latents", name=str(encoder)))


# Windows


def used() -> set[str]:
    """Files that this process has open or mapped."""
    opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    mapped = [line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()]
    return {*opened, *mapped}


@pytest.fixture
def windows(monkeypatch, tmp_path):
    """Its rules: fsync wants a handle that may write, and what is open or mapped is neither renamed nor removed."""
    sync, rename, unlink = os.fsync, os.replace, os.unlink

    def refuse_if_used(*paths):
        for path in paths:
            if os.path.realpath(path) in used():
                raise PermissionError(errno.EACCES, "Access is denied", str(path))

    def fsync(fd):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sync(fd)

    def replace(old, new):
        refuse_if_used(old, new)
        rename(old, new)

    def remove(path, *args, **kwargs):
        refuse_if_used(path)
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", remove)
    for name in ("posix_fallocate", "fork", "getuid"):
        monkeypatch.delattr(os, name)


def test_windows_folders_and_exports_are_written(windows, tmp_path):
    folder = zoo.save(zoo.create("bilinear_d64"), tmp_path / "folder")
    assert zoo.load(str(folder)).zoo_config["arch"] == "bilinear_d64"
    assert cli.main(["export", "bilinear_d256.mnist", str(tmp_path / "export")]) == 0
    assert cli.main(["export", "mae_vit_tiny_classifier.cifar10", str(tmp_path / "timm"), "--to", "timm"]) == 0


def test_windows_runs_are_written_and_gone_on_with(windows, tmp_path):
    run = str(tmp_path / "run")
    assert cli.main(["fit", "bilinear/smoke", *QUIET, "--run", run, "--save_steps", "3"]) == 0
    assert cli.main(["fit", "--resume", run, "--trainer.max_epochs", "3", *QUIET]) == 0
    assert hub.read_checkpoint(Path(run) / LAST)["epoch"] == 2
    assert not re.search(r'[<>:"|?*\\]', " ".join(p.name for p in tmp_path.rglob("*")))


def test_windows_shards_latents_and_caches_are_written(windows, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    list(sharding.write(str(pictures), tmp_path / "shards", samples=5))
    data = ImageData(f"shards:{tmp_path / 'shards'}", 16, batch_size=3, num_workers=0, lanes=1)
    data.setup("fit")
    assert len(next(iter(data.train_dataloader()))[0]) == 3
    data = ImageData(str(pictures), 16, cache="memmap")
    write(zoo.create("dcae_tiny_f4c4", **TINY_DCAE), data, tmp_path / "latents")
    read = LatentData(str(tmp_path / "latents"), batch_size=4)
    read.setup()
    assert len(next(iter(read.train_dataloader()))[0]) == 4


def test_windows_a_copy_that_is_read_is_left_whole(windows, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    made, about = [], {"source": "x", "geometry": "1"}

    def copy():
        return cache.filled("0" * 24, (9, 4), np.arange(9), lambda i: made.append(i) or np.full(4, i, np.uint8), about)

    read = copy()
    removed, left = cache.prune(everything=True)
    assert (removed, [c.filled for c in left]) == ([], ["9 of 9"])
    assert (copy() == read).all()
    del read
    assert ([c.filled for c in cache.prune(everything=True)[0]], cache.copies()) == (["9 of 9"], [])
    assert made == list(range(9))


def test_a_copy_that_was_half_removed_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    for value in (1, 2):
        how = "0" * 24, (9, 4), np.arange(9), lambda i, value=value: np.full(4, value, np.uint8)
        assert (cache.filled(*how, {"source": "x", "geometry": "1"}) == value).all()
        (tmp_path / "images" / ("0" * 24) / cache.PIXELS).unlink()


def test_windows_a_file_in_use_is_not_replaced_and_that_is_a_line(windows, tmp_path, capsys):
    folder = zoo.save(zoo.create("bilinear_d64"), tmp_path / "folder")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with open(folder / WEIGHTS, "rb"):
        assert cli.main(["export", "bilinear_d256.mnist", str(folder), "--force"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot replace {folder / WEIGHTS}, which is in use or somebody else's (Access is denied)" in line
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_listing_is_utf8_whatever_a_code_page_says():
    out = io.TextIOWrapper(io.BytesIO(), "cp1252")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        assert cli.main(["ls", "mae*"]) == 0
        print("\udcff", flush=True)  # of a file's name that is no text
    assert "→" in out.buffer.getvalue().decode("utf-8")


def text_without_encoding(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {k.arg for k in node.keywords}
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        words += [k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
        binary = any(re.fullmatch(r"[rwax+t]*b[rwax+t]*", w) for w in words)
        opens = called in ("open", "io.open") or (called.endswith(".open") and called.split(".")[0] == "path")
        if (opens and not binary) or called.endswith((".read_text", ".write_text")):
            found += [ast.unparse(node)] if "encoding" not in given else []
    return found


def test_text_is_opened_with_an_encoding():
    assert len(text_without_encoding(ast.parse("open(f)\np.read_text()\np.write_text(t)\nopen(f, 'w')"))) == 4
    assert not text_without_encoding(ast.parse("open(f, 'rb')\nopen(f, mode='xb')\np.read_text(encoding='utf-8')"))
    found = {p: text_without_encoding(ast.parse(p.read_text(encoding="utf-8"))) for p in CODE}
    assert not {p: calls for p, calls in found.items() if calls}


def test_only_signals_that_windows_has_are_asked_for():
    found = {name for p in CODE for name in re.findall(r"signal\.(SIG\w+)", p.read_text(encoding="utf-8"))}
    assert found == {"SIGINT", "SIGTERM"}


def test_no_file_has_a_name_that_windows_cannot_hold():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    reserved = r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?"
    parts = {part for n in names for part in n.split("/")}
    assert not [p for p in parts if re.search(r'[<>:"|?*\\]|[. ]$', p) or re.fullmatch(reserved, p)]
    assert len({n.lower() for n in names}) == len(names)  # files there differ in more than case


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_are_as_readable_as_any_new_file(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        hub.export("bilinear_d256.mnist", tmp_path / "a")
        zoo.save(zoo.create("bilinear_d64"), tmp_path / "b")
        hub.push(str(tmp_path / "a"), "me/mine", dry_run=tmp_path / "c")
    finally:
        os.umask(before)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 9
    assert {p.stat().st_mode & 0o777 for p in files} == {mode}


# Pickles and workers


def again(thing):
    return pickle.loads(pickle.dumps(thing))


def same_tensors(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


@pytest.mark.parametrize("arch", classes().values())
def test_a_model_is_pickled_copied_and_saved_whole(arch):
    model = small(arch)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (again(model), copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert same_tensors(model, twin)
        assert twin.zoo_config == model.zoo_config
    twin = again(model)
    frozen = [v for v in vars(twin).values() if isinstance(v, Frozen)]
    assert all(f.load.args == (twin,) for f in frozen)  # its own, and not the first one's


@pytest.mark.parametrize("name", CLASSES)
def test_a_training_is_pickled_and_copied_with_its_average(name):
    kind = getattr(zoo, name)
    lit = kind(**SMALL_LIT[name], **({"ema": 0.9} if "ema" in keywords(kind) else {}))
    assert same_tensors(lit, again(lit))
    assert same_tensors(lit, copy.deepcopy(lit))


RANDAUGMENT = "rand-m9-mstd0.5-inc1"


def sources(pictures, latents):
    """A DataModule of each kind, and of each way in which workers make samples."""
    uncached = {"image_size": 16, "channels": 3, "batch_size": 4, "cache": "none", "num_workers": 1}
    clips = {"image_size": 64, "batch_size": 2, "num_workers": 1}
    return {
        "images": ImageData(str(pictures), **uncached),
        "crop": ImageData(str(pictures), **uncached, crop_scale=(0.2, 1.0)),
        "randaugment": ImageData(str(pictures), **uncached, randaugment=RANDAUGMENT),
        "digits": ClipData("moving:samples/mnist", 4, **clips),
        "sprites": ClipData("sprites", 8, limit=4, **clips),
        "factors": FactorData(image_size=32, num_images=20, num_test=20, batch_size=4),
        "random": RandomImages((1, 8, 8), 20, 4),
        "latents": LatentData(latents, batch_size=4),
        "both": ImageLatentData(latents, batch_size=4),
    }


def test_a_datamodule_is_pickled_before_and_after_it_has_read(pictures, latents):
    for name, data in sources(pictures, latents).items():
        early = again(data)
        for module in (data, early):
            module.setup("fit")
        late = again(data)
        if name != "sprites":  # read in this process, so that nothing is spawned here
            vars(data.train_dataloader())
        for twin in (early, late, copy.deepcopy(data)):
            mine, theirs = data.train_dataloader(), twin.train_dataloader()
            assert mine.indices(0) == theirs.indices(0), name
            pickle.dumps(theirs)


def test_a_loader_before_setup_says_what_to_do(pictures, latents):
    for name, data in sources(pictures, latents).items():
        for split in ("train", "val", "test") if name != "random" else ():
            with pytest.raises(ValueError, match=f"no {split} split has been read; call setup"):
                getattr(data, f"{split}_dataloader")()


@pytest.mark.parametrize("how", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_make_the_same_batches(how, pictures):
    def first():
        data = ImageData(str(pictures), 16, 3, batch_size=4, cache="none", num_workers=1, randaugment=RANDAUGMENT)
        data.setup("fit")
        return next(iter(data.train_dataloader()))[0]

    forked, before = first(), torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method(how, force=True)
    try:
        assert torch.equal(first(), forked)
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
