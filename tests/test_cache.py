"""Decoded images on the disk: one copy for all seeds and limits, filled as it is read, listed, removed."""

import errno
import json
import os
import pickle
import subprocess
import time
import warnings

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from zoo import cli
from zoo.data import cache
from zoo.data.images import ImageData, Pixels
from zoo.data.readers import read


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def ready(stage="fit", **args):
    data = ImageData("samples/mnist", channels=1, cache="memmap", **args)
    data.setup(stage)
    return data


def keys(place):
    return sorted(p.name for p in place.iterdir() if p.is_dir())


def test_seeds_limits_and_held_out_shares_read_one_copy(place):
    for args in ({"seed": 0}, {"seed": 1, "val_fraction": 0.1}, {"seed": 2, "val_fraction": 0.3, "limit": 100}, {}):
        data, plain = ready(**args), ImageData("samples/mnist", channels=1, cache="memory", **args)
        plain.setup("fit")
        for split in ("train", "val"):
            some = torch.randperm(len(data.splits[split][1]))[:50]
            assert torch.equal(data.splits[split][0].array[some], plain.splits[split][0].array[some])
            assert torch.equal(data.splits[split][1], plain.splits[split][1])
            assert (data.splits[split][0].whole(7) == plain.splits[split][0].whole(7)).all()
    assert len(keys(place)) == 2  # the training split, and the test split that served as validation
    ready(image_size=14)
    assert len(keys(place)) == 4


def test_only_what_is_read_is_decoded_and_only_once(place, monkeypatch):
    made, every = [], Pixels.__getitem__
    monkeypatch.setattr(Pixels, "__getitem__", lambda self, i: (made.append(i), every(self, i))[1])
    ready("validate")
    assert sorted(made) == list(range(1000))
    made.clear()
    few = ready(limit=30)
    assert sorted(made) == sorted(few.splits["train"][0].array.index.tolist())
    train = next(c for c in cache.copies() if c.filled == "30 of 1000")
    assert train.bytes < 1000 * 784 / 2  # holes take no room
    made.clear()
    ready(limit=30)
    assert made == []
    more = ready(limit=60)
    assert len(made) == 60 - len(set(few.splits["train"][0].array.index.tolist()) & set(made)) - 30
    assert {c.filled for c in cache.copies()} == {"60 of 1000", "1000 of 1000"}
    assert len(more.splits["train"][1]) == 60


def rows(count, size=12):
    return np.arange(count * size, dtype=np.uint32).astype(np.uint8).reshape(count, 3, size // 3)


def filled(wanted, make, count=9):
    about = {"source": "made", "geometry": "3×4"}
    return cache.filled("0" * 24, (count, 3, 4), np.asarray(wanted), make, about)


def test_to_know_a_copy_each_folder_is_resolved_and_not_each_picture(tmp_path, monkeypatch):
    folder = tmp_path / "photos" / "train" / "cat"
    folder.mkdir(parents=True)
    for k in range(20):
        Image.new("L", (8, 8), k).save(folder / f"{k}.png")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    keys, asked, real = [], [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path, **how: (asked.append(path), real(path, **how))[1])
    for place in ("photos", "link"):
        pixels = Pixels(read(str(tmp_path / place))["train"], 8, 1)
        asked.clear()
        keys.append(pixels.fingerprint())
        assert len(asked) == 1
    assert keys[0] == keys[1]


def test_what_was_filled_before_a_damaged_picture_stays(monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 24)  # two samples

    def broken(i):
        if i == 5:
            raise ValueError("5.png cannot be decoded")
        return rows(9)[i]

    with pytest.raises(ValueError, match=r"5\.png"):
        filled(range(9), broken)
    (copy,) = cache.copies()
    assert copy.filled == "4 of 9"
    made = []
    out = filled([8, 5, 1, 1], lambda i: (made.append(i), rows(9)[i])[1])
    assert sorted(made) == [5, 8]
    assert (out[[8, 5, 1]] == rows(9)[[8, 5, 1]]).all()
    assert not out[7].any()


def test_processes_fill_one_copy_and_a_killed_one_leaves_it_sound(place, preloaded):
    script = """
import os, sys
import numpy as np
from zoo.data import cache
cache.CHUNK = 24
made = []
def make(i):
    made.append(i)
    if len(made) == int(sys.argv[1]):
        os._exit(9)
    return np.full((3, 4), i, np.uint8)
out = cache.filled("0" * 24, (200, 3, 4), np.arange(200), make, {"source": "made", "geometry": ""})
assert (out == np.arange(200, dtype=np.uint8)[:, None, None]).all()
print(len(made))
"""
    argv = [*preloaded, "-c", script]
    assert subprocess.run([*argv, "90"]).returncode == 9
    (copy,) = cache.copies()
    before = int(copy.filled.split()[0])
    assert 50 < before < 90
    both = [subprocess.Popen([*argv, "0"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = sorted(int(process.communicate()[0]) for process in both)
    assert made == [0, 200 - before]


def test_writing_to_a_batch_changes_no_copy():
    out = filled(range(9), lambda i: rows(9)[i])
    out[:] = 255
    assert (filled(range(9), None) == rows(9)).all()


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="asks how much memory there is")
def test_a_few_pictures_of_a_source_that_is_larger_than_the_memory_are_read():
    memory, row = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 1 << 24
    shape, about = (2 * memory // row, row), {"source": "x", "geometry": "1"}
    out = cache.filled("2" * 24, shape, np.array([5]), lambda i: np.full(row, i, np.uint8), about)
    assert (out[5, 0], out[5, -1], out[6, 0]) == (5, 5, 0)


def test_a_map_that_the_system_refuses_is_read_without_a_word(monkeypatch):
    mapped = np.memmap

    def refused(path, dtype, mode, **how):
        if mode == "c":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return mapped(path, dtype, mode, **how)

    monkeypatch.setattr(np, "memmap", refused)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ready(limit=20, batch_size=20)
    x, _, _ = next(iter(data.train_dataloader()))
    assert x.shape == (20, 1, 28, 28)
    x += 1


@pytest.mark.parametrize("few", [{}, {"limit": 30, "val_fraction": 0.1}])
def test_a_worker_that_is_spawned_maps_the_copy_and_is_sent_none(few):
    data = ready(**few)
    for split in ("train", "val"):
        pixels = data.splits[split][0]
        sent = pickle.dumps(pixels)
        sources = len(pickle.dumps(pixels.items))  # which a worker would need without a cache
        assert len(sent) < sources + 10_000 < sources + pixels.array[:].nbytes
        some = torch.arange(len(pixels))[::7]
        assert torch.equal(pickle.loads(sent).array[some], pixels.array[some])
    cache.prune(everything=True)
    with pytest.raises(FileNotFoundError, match=r"was removed while it was read; .* `zoo fit --resume`"):
        pickle.loads(sent)
    assert torch.equal(pixels.array[some], pixels.array[some])  # who has it keeps it


def test_a_copy_that_cannot_be_written_is_named_with_the_variable(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"file/cache/images cannot be written: Not a directory; set ZOO_CACHE to a fold"):
        ready()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"do not fit in the 1e-06 GB that are free .*; set ZOO_CACHE to a folder with"):
        ready()
    monkeypatch.delenv("ZOO_CACHE")

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", nowhere)
    with pytest.raises(OSError, match=r"no home directory to keep a cache in .*; set ZOO_CACHE to a folder"):
        ready()


def test_a_copy_that_was_cut_is_named(place):
    filled(range(9), lambda i: rows(9)[i])
    os.truncate(place / ("0" * 24) / cache.PIXELS, 50)
    with pytest.raises(ValueError, match=r"0{24} is damaged .*; remove that folder"):
        filled([3], None)


def say(capsys, *argv):
    code = cli.main(["cache", *argv])
    return code, *capsys.readouterr()


def test_the_cache_is_listed_and_pruned_and_nothing_else_is_touched(place, capsys):
    ready(limit=100)
    ready(image_size=14)
    (place / ("a" * 24 + ".npy")).write_bytes(bytes(5000))  # of an older version
    (place / ("b" * 24)).mkdir()  # begun, and killed
    for name in ("notes.txt", "c" * 24 + ".txt"):
        (place / name).write_text("mine")
    (place / ("d" * 24)).mkdir()
    (place / ("d" * 24) / "holiday.jpg").write_text("mine")
    code, out, _ = say(capsys, "ls")
    assert code == 0
    lines = out.splitlines()
    assert sum("samples/mnist" in line for line in lines) == 4
    assert sum("1×28×28, as they are  100 of 1000" in line for line in lines) == 1
    assert sum("1×14×14, crop 1  1000 of 1000" in line for line in lines) == 2
    assert sum("older version" in line for line in lines) == sum("never finished" in line for line in lines) == 1
    assert len(lines) == 7
    total = sum(c.bytes for c in cache.copies())
    assert f"{total / 1e6:.1f} MB in {place}" in lines[-1]
    for argv in (["prune"], ["ls", "--all"], ["prune", "--size", "lots"], ["prune", "--size", "5XB"]):
        assert say(capsys, *argv)[0] == 2
    old = next(c for c in cache.copies() if "100 of 1000" in c.filled)
    long_ago = time.time() - 40 * 86400
    os.utime(old.path / cache.ABOUT, (long_ago, long_ago))
    code, out, _ = say(capsys, "prune", "--older-than", "30")
    assert str(old.path) in out.splitlines()[0]
    assert not old.path.exists()
    newest = cache.copies()[0]
    say(capsys, "prune", "--size", f"{newest.bytes / 1e6}MB")
    assert [c.path for c in cache.copies()] == [newest.path]
    code, _, err = say(capsys, "prune", "--all")
    assert (code, err, cache.copies()) == (0, "", [])
    left = sorted(p.name for p in place.iterdir() if not p.name.endswith(".lock"))
    assert left == ["c" * 24 + ".txt", "d" * 24, "notes.txt"]
    assert (place / ("d" * 24) / "holiday.jpg").read_text() == "mine"


def test_a_copy_that_is_read_can_be_pruned_and_one_that_is_filled_is_left(place, capsys):
    out = filled(range(9), lambda i: rows(9)[i])
    cache.prune(everything=True)
    assert cache.copies() == []
    assert (out == rows(9)).all()
    filled([3], lambda i: rows(9)[i])
    with FileLock(place / ("0" * 24 + ".lock")):
        code, shown, err = say(capsys, "prune", "--all")
    assert code == 0
    assert "is in use, and was left" in err
    assert shown.splitlines()[-1].split()[0] == "0.0"
    assert len(cache.copies()) == 1


def test_the_last_use_is_the_last_reading(place):
    filled([3], lambda i: rows(9)[i])
    os.utime(place / ("0" * 24) / cache.ABOUT, (1, 1))
    filled([3], None)
    assert cache.copies()[0].used > 1


def test_a_secret_in_an_address_is_not_written_down(place):
    about = {"source": "https://user:secret@host/data", "geometry": "1"}
    cache.filled("1" * 24, (1, 1), np.arange(1), lambda i: np.zeros(1, np.uint8), about)
    text = (place / ("1" * 24) / cache.ABOUT).read_text()
    assert "secret" not in text
    assert json.loads(text)["source"].endswith("host/data")
