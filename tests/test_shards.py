"""Shards: what is written, an order that only seed and epoch decide, exact resume, failing servers, damage by name."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
import torch
from conftest import losses
from lightning.pytorch.callbacks import Callback
from PIL import Image
from test_clips import brightness, write_video

from zoo import cli
from zoo.data import sharding, shards
from zoo.data.clips import ClipData
from zoo.data.images import ImageData
from zoo.data.readers import read
from zoo.train import fit

COUNT = 101  # training images, no multiple of anything here


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Images of 8×8 px; the red of each is its number in the split, sorted by class as folders are."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", COUNT), ("val", 13), ("test", 10)):
        for i in range(count):
            label = 3 * i // count
            place = root / split / f"class {label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, 40 * label, 7)).save(place / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def written(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    list(sharding.write(str(pictures), folder, samples=9))
    return folder


@pytest.fixture
def place(written, tmp_path):
    """Shards that a test may break."""
    for file in written.iterdir():
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "shards"


def ready(place, stage=None, **args):
    data = ImageData(f"shards:{place}", **{"batch_size": 8, "num_workers": 0, "lanes": 4, "shuffle_buffer": 6} | args)
    data.setup(stage)
    return data


def loader(place, rank=0, world=1, batch_size=8, shuffle=True, split=None, **more):
    data = ready(place, **more)
    images, labels = data.splits[split or ("train" if shuffle else "val")]
    return data._kind(images, labels, batch_size, shuffle, 0, rank, world, data.hparams.num_workers)


def numbers(batches):
    """Which images batches hold."""
    return [x[:, 0, 0, 0].tolist() for x, _, _ in batches]


def same(a, b):
    return len(a) == len(b) > 0 and all(
        torch.equal(x, u) and torch.equal(y, v) and s == t for (x, y, s), (u, v, t) in zip(a, b)
    )


# All


def test_all_samples_of_all_splits_come_in_order_with_their_names(place):
    data = ready(place, batch_size=4)
    assert data.roles() == {"train": "101 pictures", "val": "13 pictures", "test": "10 pictures"}
    split = [n for role in ("train", "val", "test") for batch in numbers(data.in_order(role, 8)) for n in batch]
    assert [n for batch in numbers(data.in_order("all", 32)) for n in batch] == split
    assert sorted(split) == sorted([*range(COUNT), *range(13), *range(10)])
    names = data.names("all")
    assert (len(names), names[:2], names[-1]) == (
        124,
        ["train-00000.tar[0]", "train-00000.tar[1]"],
        "test-00001.tar[0]",
    )
    with pytest.raises(ValueError, match="is a stream; which samples bad='skip' leaves out"):
        ready(place, bad="skip").names("all")


# Writing


@pytest.mark.long
def test_what_is_written_is_the_files_and_their_classes_in_webdatasets_layout(pictures, written):
    import webdataset

    source, manifest = read(str(pictures)), json.loads((written / "manifest.json").read_text())
    assert manifest["classes"] == ["class 0", "class 1", "class 2"]
    assert (manifest["size"], manifest["channels"], manifest["kind"]) == ([8, 8], 3, "images")
    for role, items in source.items():
        rows = manifest["splits"][role]
        assert [r["samples"] for r in rows] == [9] * (len(items) // 9) + [len(items) % 9] * (len(items) % 9 > 0)
        found = {}
        for row in rows:
            data = (written / row["file"]).read_bytes()
            assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
            for sample in webdataset.WebDataset(str(written / row["file"]), shardshuffle=False):
                found[int(sample["__key__"])] = sample["png"], int(sample["cls"])
        expected = [(path.read_bytes(), label) for path, label in zip(items.images, items.labels.tolist())]
        assert [found[i] for i in range(len(items))] == expected


def test_training_samples_are_mixed_and_the_same_seed_writes_the_same_bytes(pictures, written, tmp_path):
    list(sharding.write(str(pictures), tmp_path / "again", samples=9))
    list(sharding.write(str(pictures), tmp_path / "other", samples=9, seed=1))
    for file in written.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    assert (tmp_path / "other" / "train-00000.tar").read_bytes() != (written / "train-00000.tar").read_bytes()
    labels = [s.label for s in shards.read_shard(shards.find(str(written), "images")["train"].shards[0], 9, 3)]
    assert len(set(labels)) == 3


def test_shards_that_are_there_are_refused_and_replaced_by_force_alone(place, pictures, capsys):
    assert cli.main(["shard", str(pictures), str(place)]) == 2
    assert f"{place} exists; give another -o, or --force to replace it" in capsys.readouterr().err
    assert cli.main(["shard", str(pictures), "-o", str(place), "--samples-per-shard", "50", "--force"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(place / "manifest.json")
    assert [len(batch) for batch in numbers(loader(place, batch_size=COUNT))] == [COUNT]
    written = [*(f"train-0000{i}.tar" for i in range(3)), "val-00000.tar", "test-00000.tar", "manifest.json"]
    assert {p.name for p in place.iterdir()} == set(written)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: (place / "manifest.json").unlink(), "its shards may be somebody else's"),
        (lambda place: (place / "thesis.tex").write_text("mine"), "it holds thesis.tex, which is not of the zoo"),
    ],
)
def test_what_may_be_somebody_elses_is_not_replaced_by_force_either(place, pictures, capsys, change, said):
    change(place)
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    assert cli.main(["shard", str(pictures), "-o", str(place), "--force"]) == 2
    assert said in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before


def test_shards_that_fail_to_be_written_leave_the_old_ones(place, tmp_path, capsys):
    (tmp_path / "bad" / "train" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "train" / "a" / "0.png").write_bytes(b"no picture")
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    assert cli.main(["shard", str(tmp_path / "bad"), "-o", str(place), "--force"]) == 2
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before
    assert cli.main(["shard", str(tmp_path / "bad"), "-o", str(tmp_path / "new" / "place")]) == 2
    assert not (tmp_path / "new").exists()
    capsys.readouterr()


def test_a_damaged_image_leaves_no_manifest(pictures, tmp_path):
    (tmp_path / "bad" / "train" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "train" / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a/0\.png cannot be decoded"):
        list(sharding.write(str(tmp_path / "bad"), tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_arrays_become_png_and_larger_images_are_reduced(tmp_path):
    for name, form in (("a.jpg", "JPEG"), ("b.png", "PNG")):
        (tmp_path / "in" / "train" / "x").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (200, 0, 0)).save(tmp_path / "in" / "train" / "x" / name, form)
    list(sharding.write(str(tmp_path / "in"), tmp_path / "out", image_size=20))
    with tarfile.open(tmp_path / "out" / "train-00000.tar") as archive:
        found = {m.name[-3:]: archive.extractfile(m).read() for m in archive if not m.name.endswith("cls")}
    for suffix, form in (("jpg", "JPEG"), ("png", "PNG")):
        image = Image.open(io.BytesIO(found[suffix]))
        assert (image.size, image.format) == ((30, 20), form)
    assert sharding._encoded(np.zeros((5, 6, 1), np.uint8), "set", "images", None, sharding.Seen())[0] == "png"


def test_an_index_of_shards_that_are_there_is_the_manifest_that_was_lost(place, capsys):
    before = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").unlink()
    assert cli.main(["shard", "--index", str(place)]) == 0
    after = json.loads((place / "manifest.json").read_text())
    assert after == before | {"classes": ["0", "1", "2"]} | {"splits": after["splits"]}
    assert {r: sorted(rows, key=str) for r, rows in after["splits"].items()} == before["splits"]
    assert cli.main(["shard", "--index", str(place), str(place.parent / "elsewhere")]) == 0
    assert same(list(loader(place)), list(loader(place.parent / "elsewhere")))
    assert cli.main(["shard", "--index", str(place)]) == 2
    assert cli.main(["shard", "--index", str(place), "--force"]) == 0


# The order


def test_pixels_and_labels_are_those_of_the_source(pictures, written):
    items = read(str(pictures))["train"]
    for x, y, _ in loader(written):
        for image, label in zip(x, y.tolist()):
            i = image[0, 0, 0].item()
            assert label == items.labels[i]
            assert torch.equal(
                image, torch.tensor([i, 40 * label, 7], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
            )


def test_each_image_comes_once_an_epoch_and_epochs_differ(written):
    stream = loader(written)
    first, second = numbers(stream), numbers(stream)
    assert [len(x) for x in first] == [8] * (COUNT // 8) == [8] * len(stream)
    for epoch in (first, second):
        assert max(Counter(n for batch in epoch for n in batch).values()) == 1
    assert first != second
    unmixed = loader(written, shuffle_buffer=1)
    assert numbers(unmixed) != numbers(unmixed)  # the shards change places too
    moved = np.abs(np.diff([n for batch in first for n in batch]))
    assert np.median(moved) > 10  # mixed well: a random order of 101 has 30


def test_same_seed_same_batches_another_seed_others(written):
    assert same(list(ready(written, seed=3).train_dataloader()), list(ready(written, seed=3).train_dataloader()))
    assert not same(list(ready(written, seed=3).train_dataloader()), list(ready(written, seed=4).train_dataloader()))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_make_the_batches_of_one(written, world):
    whole = numbers(loader(written, batch_size=8))
    ranks = [numbers(loader(written, rank, world, batch_size=8 // world)) for rank in range(world)]
    assert {len(r) for r in ranks} == {len(whole)}
    for step, batch in enumerate(whole):
        assert [n for together in zip(*(r[step] for r in ranks)) for n in together] == batch


def test_a_process_opens_only_the_shards_of_its_lanes(written):
    streams = [loader(written, rank, 4) for rank in range(4)]
    touched = [{name.partition("[")[0] for step in range(len(s)) for name in s.indices(step)} for s in streams]
    assert max(len(t) for t in touched) <= 4
    assert len(set.union(*touched)) == 12


def test_workers_change_nothing(written):
    args = {"crop_scale": (0.3, 1.0), "image_size": 8, "randaugment": "rand-m9-mstd0.5-inc1"}
    alone = list(ready(written, **args).train_dataloader())
    assert same(alone, list(ready(written, num_workers=3, **args).train_dataloader()))
    assert not same(alone, list(ready(written, seed=1, **args).train_dataloader()))


def test_each_image_is_changed_in_a_way_of_its_own_and_anew_in_each_epoch(tmp_path):
    for i in range(8):
        place = tmp_path / "in" / ("train" if i else "val") / "x"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)).save(place / f"{i}.png")
    list(sharding.write(str(tmp_path / "in"), tmp_path / "out"))
    stream = ready(tmp_path / "out", batch_size=7, crop_scale=(0.2, 0.8)).train_dataloader()
    assert len(torch.cat([x for _ in range(2) for x, _, _ in stream]).unique(dim=0)) == 14


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_evaluation_shows_each_sample_once_in_stored_order_in_equally_many_batches(written, world):
    ranks = [numbers(loader(written, rank, world, batch_size=2, shuffle=False)) for rank in range(world)]
    assert [n for r in ranks for batch in r for n in batch] == list(range(13))
    assert {len(r) for r in ranks} == {len(loader(written, 0, world, batch_size=2, shuffle=False))}
    assert all(1 <= len(batch) <= 2 for r in ranks for batch in r)


def test_a_steps_images_can_be_named(written):
    stream = loader(written)
    batches = numbers(stream)
    stream.set_epoch(0)
    for step in (0, 5, len(stream) - 1):
        for name, number in zip(stream.indices(step), batches[step]):
            file, _, k = name.rstrip("]").partition("[")
            with tarfile.open(written / file) as archive:
                assert int(archive.getnames()[2 * int(k)].partition(".")[0]) == number


def test_processes_that_cannot_share_the_lanes_are_refused(written):
    with pytest.raises(ValueError, match="3 processes cannot share 4 lanes evenly; set lanes to a multiple of 3"):
        loader(written, world=3)


# Resume


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_an_epoch_goes_on_where_it_stopped(written, stop, workers):
    args = {"num_workers": workers, "crop": 1, "shuffle_buffer": 3, "batch_size": 7}  # no multiple of the lanes
    data = ready(written, **args)
    stream = data.train_dataloader()
    list(stream)
    whole = list(stream)  # the second epoch
    stream.set_epoch(1)
    iterator = iter(stream)
    for _ in range(stop):
        next(iterator)
    again = ready(written, **args).train_dataloader()
    again.load_state_dict(stream.state_dict())
    assert same(list(again), whole[stop:])


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("size", [5, 16, 40])
def test_a_stream_goes_on_with_another_batch_size_and_shows_no_picture_twice(written, world, size):
    seen: list[str] = []
    for rank in range(world):
        stream = loader(written, batch_size=8, rank=rank, world=world)
        names = [name for step in range(len(stream)) for name in stream.indices(step)]
        batches = iter(stream)
        for _ in range(3):
            next(batches)
        again = loader(written, batch_size=size, rank=rank, world=world)
        again.load_state_dict(stream.state_dict())
        later = [again.indices(step) for step in again.spans]
        assert [len(batch) for batch in later] == [len(y) for _, y, _ in again]
        later = [name for batch in later for name in batch]
        assert later[: len(names) - 24] == names[24 : 24 + len(later)]  # in the same order
        seen += names[:24] + later
    assert len(set(seen)) == len(seen)


def test_resume_opens_no_shard_that_was_used_up(place):
    stream = loader(place, shuffle_buffer=2)
    whole = list(stream)
    stream.set_epoch(0)
    later = {name.partition("[")[0] for step in range(8, len(stream)) for name in stream.indices(step)}
    done = {r["file"] for r in json.loads((place / "manifest.json").read_text())["splits"]["train"]} - later
    assert done
    for name in done:
        (place / name).unlink()
    again = loader(place, shuffle_buffer=2)
    again.load_state_dict({"epoch": 0, "images": 8 * again.batch_size})
    assert same(list(again), whole[8:])


# A server that fails


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        file, span = self.to.folder / self.path.strip("/"), self.headers.get("Range")
        way = self.to.note((self.path, span))
        if self.to.down or way == "error":
            self.send_error(503)
        elif not file.is_file():
            self.send_error(404)
        elif way != "reset":  # that is no answer at all
            data, status = file.read_bytes(), 200
            if span and self.to.ranges:
                first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
                data, status = data[first : last + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if way == "cut" else data)

    def log_message(self, *args):
        pass


class Hub(Handler):
    """As much of the Hugging Face Hub as one data set, org/name, takes."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if not path.startswith("/api"):
            self.path = path.removeprefix("/datasets/org/name/resolve/main")
            return super().do_GET()
        known = {"id": "org/name", "sha": "0" * 40}
        if path.endswith("/tree/main"):
            files = sorted(self.to.folder.iterdir())
            known = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
        data = json.dumps(known).encode()
        self.send_response(200 if path.startswith("/api/datasets/org/name") else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None


class Server:
    """Files of a folder on loopback; every `fail`-th new request fails once, in one of three ways."""

    def __init__(self, folder, fail=0, ranges=True, handler=Handler):
        self.folder, self.fail, self.ranges = folder, fail, ranges
        self.asked, self.failed, self.down, self.lock = Counter(), [], False, threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("To", (handler,), {"to": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def note(self, request):
        """How a request fails, or ""."""
        with self.lock:
            self.asked[request] += 1
            if not self.fail or self.asked[request] > 1 or len(self.asked) % self.fail:
                return ""
            self.failed.append(("error", "cut", "reset")[len(self.failed) % 3])
            return self.failed[-1]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 3000)
    monkeypatch.setattr(shards, "WAITS", (0.01, 0.01))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_fails_now_and_then_gives_the_batches_of_the_disk(written, small_blocks, ranges):
    with Server(written, fail=4, ranges=ranges) as server:
        found = list(loader(server.url, num_workers=2))
        assert same(found, list(loader(written)))
        assert set(server.failed) == {"error", "cut", "reset"}
        evaluated = list(loader(server.url, shuffle=False, split="test"))
        assert same(evaluated, list(loader(written, shuffle=False, split="test")))


@pytest.fixture
def bucket(written):
    """The shards in fsspec's store in memory, which lists and gives ranges as an object store does."""
    store = fsspec.filesystem("memory")
    store.put(str(written), "/bucket/pictures", recursive=True)
    yield "memory://bucket/pictures"
    store.rm("/bucket", recursive=True)


def test_an_object_store_gives_the_batches_of_the_disk(written, bucket, small_blocks):
    for shuffle in (True, False):
        assert same(list(loader(bucket, shuffle=shuffle)), list(loader(written, shuffle=shuffle)))


def test_shards_of_an_object_store_get_a_manifest_on_the_disk(written, bucket, tmp_path):
    fsspec.filesystem("memory").rm("/bucket/pictures/manifest.json")
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/pictures has no manifest\.json; `zoo shard"):
        ready(bucket)
    with pytest.raises(ValueError, match="a manifest cannot be written to memory://bucket/pictures; give a FOLDER"):
        list(sharding.index(bucket))
    list(sharding.index(bucket, tmp_path))
    rows, wanted = (json.loads((f / "manifest.json").read_text())["splits"]["train"] for f in (tmp_path, written))
    assert [r["file"].rpartition("pictures/")[2] for r in rows] == [r["file"] for r in wanted]
    assert [r["sha256"] for r in rows] == [r["sha256"] for r in wanted]
    assert numbers(loader(tmp_path)) == numbers(loader(written))


@pytest.mark.parametrize(
    ("scheme", "package", "said"),
    [
        ("s3", "s3fs", "needs the package s3fs; pip install s3fs"),
        ("gs", "gcsfs", "needs the package gcsfs; pip install gcsfs"),
        ("abfs", "adlfs", "needs the package adlfs; pip install adlfs"),
        ("sftp", "paramiko", 'needs a package: SFTPFileSystem requires "paramiko" to be installed'),
    ],
)
def test_an_object_store_without_its_package_names_it(scheme, package, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "l.csv").write_text(f"path\n{scheme}://b/p.png\n")
    with pytest.raises(ValueError, match=rf"^{scheme}://b/p/manifest\.json {said}$"):
        ready(f"{scheme}://b/p")
    with pytest.raises(FileNotFoundError, match=rf"cannot be fetched \({scheme}://b/p\.png {said}\)"):
        read(str(tmp_path / "l.csv"))
    assert cli.main(["shard", "--index", f"{scheme}://b/p", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_an_object_store_that_cannot_be_listed_is_told_in_a_line(bucket, tmp_path, small_blocks, monkeypatch, capsys):
    class NoCredentialsError(Exception):  # botocore's, which is no OSError
        pass

    def find(self, path, **_):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", find)
    assert cli.main(["shard", "--index", bucket, str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{bucket} cannot be read after 3 attempts: NoCredentialsError Unable to locate credentials" in line


def test_a_hub_data_set_streams(written, tmp_path, preloaded):
    script = """if True:
        from zoo.data.images import ImageData
        data = ImageData("shards:hf://datasets/org/name", batch_size=8, num_workers=0, lanes=4, shuffle_buffer=6)
        data.setup("fit")
        print([x[:, 0, 0, 0].tolist() for x, _, _ in data.train_dataloader()])
    """
    with Server(written, handler=Hub) as server:
        here = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*preloaded, "-c", script], env=os.environ | here, capture_output=True, text=True)
    assert done.stdout.strip() == str(numbers(loader(written))), done.stderr[-2000:]


def test_after_a_failure_only_what_failed_is_asked_for_again(written, small_blocks):
    with Server(written, fail=5) as server:
        list(loader(server.url, lanes=1))  # of several lanes, two may read one shard
    assert len(server.failed) > 10
    assert sum(server.asked.values()) == len(server.asked) + len(server.failed)


def test_a_server_that_stays_down_is_named_with_what_to_do(written, small_blocks, monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 1000)
    with Server(written) as server:
        stream = loader(server.url, lanes=1)
        iterator = iter(stream)
        next(iterator)
        server.down = True
        with pytest.raises(
            ConnectionError, match=rf"{server.url}/train-000\d\d\.tar cannot be read after 3 attempts: .*503"
        ):
            list(iterator)
        with pytest.raises(ConnectionError, match=r"manifest\.json cannot be read after 3 attempts.*zoo fit --resume"):
            ready(server.url)
    with pytest.raises(ConnectionError, match=r"manifest\.json cannot be read"):  # nobody listens any more
        ready(server.url)


# What is refused


def replace(file, name, content):
    """Rewrite a member of a tar file; None leaves it out."""
    out = io.BytesIO()
    with tarfile.open(file) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            data = content if member.name == name else old.extractfile(member).read()
            if data is not None:
                info = tarfile.TarInfo(member.name)
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    file.write_bytes(out.getvalue())


def described(place):
    """The manifest written anew, so that the hashes are right."""
    (place / "manifest.json").unlink()
    list(sharding.index(str(place)))
    return place


def keys(file):
    with tarfile.open(file) as archive:
        return [name.partition(".")[0] for name in archive.getnames()[::2]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("png", b"no picture", "cannot be decoded"),
        ("png", None, "has no image or video, only cls"),
        ("cls", b"3", "has the class '3', expected KEY.cls with a number below 3"),
        ("cls", None, "has the class ''"),
    ],
)
def test_a_corrupt_sample_is_named(place, suffix, content, message, workers):
    file = place / "train-00004.tar"
    key = keys(file)[5]
    replace(file, f"{key}.{suffix}", content)
    manifest = json.loads((place / "manifest.json").read_text())
    row = manifest["splits"]["train"][4]
    row |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"{key} in \S+train-00004\.tar {message}"):
        list(loader(place, num_workers=workers))
    with pytest.warns(UserWarning, match=rf"a sample is left out, 1 so far.*{key} in .*00004\.tar"):
        found = numbers(loader(place, num_workers=workers, bad="skip"))
    assert {len(batch) for batch in found} == {8}  # its place goes to another
    assert int(key) not in {n for batch in found for n in batch}


def test_evaluation_leaves_a_corrupt_sample_out_and_says_so_once(place):
    replace(place / "val-00000.tar", "00000002.png", b"")
    stream = loader(described(place), shuffle=False, bad="skip")
    with pytest.warns(UserWarning, match="00000002"):
        assert [n for batch in numbers(stream) for n in batch] == [0, 1, *range(3, 13)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(stream)) == 2


def test_a_batch_of_nothing_but_corrupt_samples_is_refused(place):
    for key in keys(place / "val-00000.tar")[:2]:
        replace(place / "val-00000.tar", f"{key}.png", b"")
    with pytest.raises(ValueError, match=r"none of the 2 samples of a batch can be decoded; the first: .*00000000 in"):
        list(loader(described(place), batch_size=2, shuffle=False, bad="skip"))


def test_a_corrupt_shard_is_named(place):
    file = place / "train-00003.tar"
    whole = file.read_bytes()
    file.write_bytes(b"\xff" * len(whole))
    with pytest.raises(ValueError, match=r"train-00003\.tar is no tar file, or a damaged one"):
        list(loader(place))
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConnectionError, match=r"train-00003\.tar cannot be read.*bytes came of the"):
        list(loader(place))
    file.write_bytes(whole)
    assert list(loader(place))


def test_a_shard_that_has_changed_is_refused_by_its_hash(place):
    file = place / "train-00007.tar"
    key, before = keys(file)[0], file.read_bytes()
    replace(file, f"{key}.cls", b"1")  # another class, and else the same
    if file.read_bytes() == before:
        replace(file, f"{key}.cls", b"2")
    with pytest.raises(ValueError, match=r"train-00007\.tar has changed: its sha256 is \w+, the manifest says"):
        list(loader(place, batch_size=COUNT))


def test_a_manifest_that_counts_wrongly_is_refused(place):
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["splits"]["val"][0]["samples"] = 12
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"val-00000\.tar holds 9 samples, the manifest says 12"):
        list(loader(place, shuffle=False))


def test_a_missing_shard_is_named(place):
    (place / "train-00002.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"no shard \S+train-00002\.tar, which manifest\.json names"):
        list(loader(place))
    with Server(place) as server, pytest.raises(FileNotFoundError, match=rf"no shard {server.url}/train-00002\.tar"):
        list(loader(server.url))


@pytest.mark.parametrize(
    ("break_", "error", "message"),
    [
        (lambda p: p.unlink(), FileNotFoundError, "has no manifest.json; `zoo shard SOURCE -o FOLDER` writes shards"),
        (lambda p: p.write_text("{"), ValueError, "is not JSON"),
        (lambda p: p.write_text('{"format": "x"}'), ValueError, "is no manifest of format zoo-shards-1"),
        (lambda p: p.write_text('{"format": "zoo-shards-1"}'), ValueError, r"is damaged \(KeyError\('kind'\)\)"),
    ],
)
def test_a_missing_or_broken_manifest_is_named(place, break_, error, message):
    break_(place / "manifest.json")
    with pytest.raises(error, match=message):
        ready(place)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"val_fraction": 0.1}, "shards are read as they are"),
        ({"limit": 5}, "shards are read as they are"),
        ({"cache": "memory"}, "shards are read as they are"),
        ({"lanes": 0}, "lanes=0, must be at least 1"),
        ({"bad": "mend"}, "bad='mend', allowed refuse, skip"),
        ({"source": "shards:ftq://host/place"}, "allowed are a folder, https://"),
    ],
)
def test_what_shards_cannot_do_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        ImageData(**{"source": "shards:somewhere"} | args).setup()


def test_images_of_several_sizes_need_an_image_size(pictures, tmp_path):
    for i, size in enumerate((8, 9)):
        (tmp_path / "in" / "train" / "x").mkdir(parents=True, exist_ok=True)
        Image.new("L", (size, size)).save(tmp_path / "in" / "train" / "x" / f"{i}.png")
    list(sharding.write(str(tmp_path / "in"), tmp_path / "out"))
    data = ImageData(f"shards:{tmp_path / 'out'}", batch_size=2)
    with pytest.raises(ValueError, match="have several sizes; give image_size"):
        data._pixels(shards.find(str(tmp_path / "out"), "images")["train"], "train")
    data = ImageData(f"shards:{tmp_path / 'out'}", batch_size=2, image_size=6)
    assert data._pixels(shards.find(str(tmp_path / "out"), "images")["train"], "train").shape == (1, 6, 6)


# Clips


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for split, each in (("train", 5), ("val", 2)):
        for name in ("jump", "run"):
            for i in range(each):
                write_video(root / "in" / split / name / f"{i}.mp4", count=12 + i, size=(32, 32))
    assert cli.main(["shard", str(root / "in"), str(root / "out"), "--samples-per-shard", "3"]) == 0
    return root


def clips(source, **args):
    args = {"frames": 4, "image_size": 32, "stride": 2, "batch_size": 4, "num_workers": 0, "lanes": 2} | args
    data = ClipData(str(source), **args)
    data.setup("fit")
    return data


def test_clips_stream_as_they_are_read_from_files(videos):
    stored, streamed = clips(videos / "in"), clips(f"shards:{videos / 'out'}")
    assert streamed.classes == ["jump", "run"]
    assert same(list(stored.val_dataloader()), list(streamed.val_dataloader()))
    whole = list(clips(f"shards:{videos / 'out'}", repeats=2, num_workers=2).train_dataloader())
    assert [x.shape for x, _, _ in whole] == [(2, 2, 4, 3, 32, 32)] * 5
    assert all(np.diff(brightness(clip)).tolist() == [2, 2, 2] for x, _, _ in whole for clip in x.flatten(0, 1))
    again = clips(f"shards:{videos / 'out'}", repeats=2).train_dataloader()
    again.load_state_dict({"epoch": 0, "images": 3 * again.batch_size})
    assert same(list(again), whole[3:])


def test_a_corrupt_video_is_named_and_images_are_no_clips(videos, written, tmp_path):
    (tmp_path / "out").mkdir()
    for file in (videos / "out").glob("*.tar"):
        (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    replace(tmp_path / "out" / "val-00000.tar", "00000001.mp4", b"no video")
    list(sharding.index(str(tmp_path / "out")))
    with pytest.raises(ValueError, match=r"00000001 in \S+val-00000\.tar is not a video that can be decoded"):
        list(clips(f"shards:{tmp_path / 'out'}").val_dataloader())
    with pytest.warns(UserWarning, match="00000001"):
        found = list(clips(f"shards:{tmp_path / 'out'}", bad="skip").val_dataloader())
    assert sum(len(y) for _, y, _ in found) == 3
    with pytest.raises(ValueError, match="holds images, not clips; read it with ImageData"):
        clips(f"shards:{written}")
    with pytest.raises(ValueError, match="holds clips, not images; read it with ClipData"):
        ready(videos / "out")


# zoo fit


RECIPE = """\
seed_everything: 0
model:
  class_path: zoo.LitMAE
  init_args:
    arch: mae_vit_tiny
    arch_args:
      {image_size: 8, patch_size: 4, dim: 16, depth: 1, heads: 2, decoder_dim: 8, decoder_depth: 1, decoder_heads: 1}
    lr: 1.0e-3
    warmup_epochs: 1
data:
  class_path: zoo.ImageData
  init_args: {source: "shards:PLACE", batch_size: 4, lanes: 4, shuffle_buffer: 6, num_workers: 1, flip: true}
trainer:
  max_epochs: 2
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
  callbacks: [{class_path: test_shards.SignalAt, init_args: {step: STEP}}]
"""


class SignalAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_zoo_fit_streams_from_a_failing_server_and_resumes_to_the_last_bit(written, tmp_path, small_blocks):
    with Server(written, fail=7) as server:

        def run(name, place, step):
            (tmp_path / f"{name}.yaml").write_text(RECIPE.replace("PLACE", str(place)).replace("STEP", str(step)))
            status = fit.fit([str(tmp_path / f"{name}.yaml"), "--runs", str(tmp_path)])
            return status, next((tmp_path / name).iterdir())

        status, whole = run("disk", written, -1)
        assert status == 0
        status, stopped = run("stopped", server.url, 33)
        assert status == 128 + signal.SIGTERM
        assert len(losses(stopped)) == 34
        assert fit.fit(["--resume", str(stopped)]) == 0
    assert losses(stopped) == losses(whole)
    assert len(losses(whole)) == 50
    assert len(server.failed) > 10
