"""`zoo embed`, `codes`, `similar`, `latents`: what files hold and say of themselves; no other model is taken."""

import json
import os
import re
import subprocess
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import zoo
from zoo import cli, hub
from zoo.data.images import ImageData
from zoo.data.latents import ImageLatentData, LatentData
from zoo.metrics.probes import pooled_features
from zoo.nn.frozen import fingerprint
from zoo.report import neighbours, plots, tables

ROOT = Path(__file__).parents[1]


def photo(path: Path, seed: int, size: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((size, size), Image.Resampling.NEAREST).save(path)


def film(path: Path, start: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 48
        for i in range(8):
            frame = np.full((48, 48, 3), start + 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A small model, another of its kind, and pictures in classes with awkward names."""
    root = tmp_path_factory.mktemp("embed")
    torch.manual_seed(0)
    for name in ("model", "other"):
        model = zoo.create("mae_vit_tiny", image_size=32, patch_size=4, depth=3, decoder_depth=1)
        hub.save(model, root / name)
    for i in range(12):
        photo(root / "photos" / ("a cat", "ñandú")[i % 2] / f"{i:02d}\n鳥.png", i)
    return root


def run(capsys, *argv):
    status = cli.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return status, out, err


def pixels(place: Path) -> torch.Tensor:
    data = ImageData(str(place / "photos"), 32, 3)
    return data.on_after_batch_transfer(next(iter(data.in_order("all", 99))), 0)[0]


def embedded(file: Path) -> tuple[np.ndarray, list[str], list[str | None], dict]:
    if file.suffix == ".npy":
        about = json.loads(file.with_name(f"{file.name}.json").read_text(encoding="utf-8"))
        return np.load(file), about.pop("path"), about.pop("label"), about
    table = parquet.read_table(file)
    about = json.loads(table.schema.metadata[b"latentzoo"])
    return np.stack(table["embedding"].to_numpy()), table["path"].to_pylist(), table["label"].to_pylist(), about


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_features_of_each_picture_stand_beside_its_name_and_class(capsys, place, tmp_path, kind):
    output = tmp_path / f"features.{kind}"
    source = place / "photos"
    status, out, _ = run(capsys, "embed", place / "model", source, "-o", output, "--batch-size", 5)
    assert (status, out) == (0, f"12 rows in {output}\n")
    features, paths, labels, about = embedded(output)
    assert paths == sorted(p.relative_to(source).as_posix() for p in source.rglob("*.png"))
    assert labels == ["a cat"] * 6 + ["ñandú"] * 6
    model = zoo.load(str(place / "model"))
    with torch.no_grad():
        expected = pooled_features(model, pixels(place)).numpy()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert about["model"] == str(place / "model")
    assert about["fingerprint"] == fingerprint(model)
    assert about["source"] == str(source)
    assert about["transform"] == {"channels": 3, "size": [32, 32], "crop_pct": 1.0}
    assert (about["pool"], about["layer"], about["shape"]) == ("mean", None, [192])
    assert about["version"] == zoo.__version__


def test_tokens_class_tokens_and_layers_can_be_asked_for(place, tmp_path):
    model, source = zoo.load(str(place / "model")), str(place / "photos")
    got = {}
    for pool in ("mean", "cls", "none"):
        for layer in (None, 1, -2):
            tables.embed(model, source, tmp_path / "f.npy", pool, layer)
            got[pool, layer] = embedded(tmp_path / "f.npy")[0]
            assert embedded(tmp_path / "f.npy")[3]["layer"] == layer
    with torch.no_grad():
        x = pixels(place)
        tokens = model.forward_features(x).numpy()  # (B, T + N, D)
        (after,) = model.forward_intermediates(x, [1], output_fmt="NLC")
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(got["none", None], tokens, **close)
    np.testing.assert_allclose(got["cls", None], tokens[:, 0], **close)
    np.testing.assert_allclose(got["mean", 1], after.mean(1).numpy(), **close)
    np.testing.assert_allclose(got["none", 1][:, 1:], after.numpy(), **close)
    for pool in ("mean", "cls", "none"):
        np.testing.assert_array_equal(got[pool, 1], got[pool, -2])
    tables.embed(model, source, tmp_path / "f.parquet", "none")
    flat, *_, about = embedded(tmp_path / "f.parquet")
    np.testing.assert_allclose(flat.reshape(-1, *about["shape"]), tokens, **close)
    assert not model._forward_hooks
    assert not any(block._forward_hooks for block in model.blocks)


def test_classifiers_vectors_and_maps_have_features_too(place, tmp_path):
    source = str(place / "photos")
    for name, shape in (("bilinear_d256.mnist", [256]), ("vqvae_conv_small.cifar10", [64])):
        tables.embed(zoo.load(name), source, tmp_path / "f.parquet")
        assert embedded(tmp_path / "f.parquet")[3]["shape"] == shape
    tables.embed(zoo.load("vqvae_conv_small.cifar10"), source, tmp_path / "f.npy", "none")
    assert embedded(tmp_path / "f.npy")[0].shape == (12, 64, 8, 8)


def test_no_secret_is_written(place, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "secret-word-1")
    (tmp_path / "secret-word-1").symlink_to(place / "photos")
    model = zoo.load(str(place / "model"))
    for kind in ("parquet", "npy"):
        tables.embed(model, str(tmp_path / "secret-word-1"), tmp_path / f"f.{kind}", name="hf://a:b@c/secret-word-1")
    for file in tmp_path.glob("f.*"):
        assert b"secret-word-1" not in file.read_bytes()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--layer", "3"], "--layer 3, allowed -3 to 2"),
        (["--layer", "-4"], "--layer -4, allowed -3 to 2"),
        (["--pool", "max"], "--pool max, allowed mean, cls, none"),
        (["-o", "f.csv"], "f.csv is of no format that is known; give a name that ends in .parquet, .npy"),
        (["-o", "there.npy"], "there.npy.json exists; give another -o, or --force"),
        (["--split", "val"], "has no val split, only train"),
    ],
)
def test_what_cannot_be_embedded_is_named(capsys, place, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npy.json").write_text("mine")
    status, _, err = run(capsys, "embed", place / "model", place / "photos", "-o", "f.npy", *argv)
    assert (status, said in err) == (2, True), err
    assert [p.name for p in tmp_path.iterdir()] == ["there.npy.json"]


def test_models_without_layers_or_class_tokens_say_so(place, tmp_path):
    model = zoo.load("bilinear_d256.mnist")
    with pytest.raises(ValueError, match="no layers to choose from"):
        tables.embed(model, str(place / "photos"), tmp_path / "f.npy", layer=0)
    with pytest.raises(ValueError, match="no class token; take --pool mean or none"):
        tables.embed(model, str(place / "photos"), tmp_path / "f.npy", "cls")


def test_clips_are_embedded_as_well(tmp_path):
    for i in range(3):
        film(tmp_path / "films" / "ab"[i % 2] / f"{i}.mp4", 40 * i)
    model = zoo.create("videomae_vit_tiny", frames=4, image_size=32, patch_size=16, depth=1, decoder_depth=1).eval()
    tables.embed(model, str(tmp_path / "films"), tmp_path / "f.npy", batch_size=2)
    features, paths, labels, _ = embedded(tmp_path / "f.npy")
    assert (paths, labels) == (["a/0.mp4", "a/2.mp4", "b/1.mp4"], ["a", "a", "b"])
    with torch.no_grad():
        expected = pooled_features(model, zoo.transform(model)(tmp_path / "films/a/2.mp4")[None])
    np.testing.assert_allclose(features[1], expected[0].numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="value_range: of images alone, this model takes clips"):
        tables.embed(model, str(tmp_path / "films"), tmp_path / "g.npy", reading={"value_range": (0, 1)})
    with pytest.raises(ValueError, match="2 sources, but clips are read of one"):
        tables.embed(model, ["a", "b"], tmp_path / "g.npy")
    with pytest.raises(ValueError, match="has no files whose names could stand in a table"):
        tables.embed(model, "moving:samples/mnist", tmp_path / "g.npy")


# Interrupted


def test_a_full_disk_and_a_kill_leave_nothing_that_could_be_taken_for_whole(place, tmp_path, preloaded):
    """20 kB fit on the disk, 12 times 65 tokens of 192 floats do not; then the third batch kills what runs."""
    script = """
import os, resource, signal, sys
from zoo.cli import main
from zoo.report import tables
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
argv = ["embed", *sys.argv[1:], "--pool", "none", "--batch-size", "1", "-o"]
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
print(main([*argv, "f.parquet", "--force"]), main([*argv, "f.npy", "--force"]), os.listdir(), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
made, done = tables.features_by, []
def features_by(*args):
    def features(x):
        done.append(x)
        return os.kill(os.getpid(), signal.SIGKILL) if len(done) == 3 else whole(x)
    whole = made(*args)
    return features
tables.features_by = features_by
main([*argv, "g.npy"])
"""
    for kind in ("parquet", "npy", "npy.json"):
        (tmp_path / f"f.{kind}").write_text("mine")
    argv = [*preloaded, "-c", script, str(place / "model"), str(place / "photos")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}  # else bytecode is cut too
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stdout.startswith("2 2 ["), done.stderr
    assert set(eval(done.stdout[4:])) == {"f.parquet", "f.npy", "f.npy.json"}
    said = [line for line in done.stderr.splitlines() if line.startswith("zoo embed")]
    assert len(said) == 2
    assert all("cannot write" in line and "nothing in it was changed" in line for line in said)
    assert all(p.read_text() == "mine" for p in tmp_path.glob("f.*"))
    assert done.returncode == -9
    left = [p.name for p in tmp_path.iterdir() if "g.npy" in p.name]
    assert left
    assert all(re.fullmatch(r"\.g\.npy(\.json)?\.\d+\.part", name) for name in left)


# similar


@pytest.fixture(scope="module")
def features(place) -> Path:
    tables.embed(zoo.load(str(place / "model")), str(place / "photos"), place / "f.parquet", name=str(place / "model"))
    tables.embed(zoo.load(str(place / "model")), str(place / "photos"), place / "f.npy", name=str(place / "model"))
    return place / "f.parquet"


def test_the_nearest_come_first_and_none_is_left_out(capsys, place, features, tmp_path, monkeypatch):
    query = sorted((place / "photos").rglob("*.png"))[7]
    vectors, paths, labels, _ = embedded(features)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[paths.index(query.relative_to(place / "photos").as_posix())]
    for file, rows in ((features, 65_536), (features, 5), (features.with_suffix(".npy"), 5)):
        monkeypatch.setattr(neighbours, "ROWS", rows)
        argv = ["similar", file, query, "-o", tmp_path / "s.png", "--count", 4, "--json", "--force"]
        status, out, _ = run(capsys, *argv)
        assert status == 0
        (found,) = json.loads(out)
        assert found["query"] == str(query)
        order = np.argsort(-cosine)[:4]
        assert [n["path"] for n in found["neighbours"]] == [paths[i] for i in order]
        assert [n["label"] for n in found["neighbours"]] == [labels[i] for i in order]
        assert [n["similarity"] for n in found["neighbours"]] == pytest.approx(cosine[order], abs=1e-5)
    assert Image.open(tmp_path / "s.png").size[0] > 300


def test_a_table_and_how_to_go_on_with_faiss_are_printed(capsys, place, features, tmp_path):
    query = sorted((place / "photos").rglob("*.png"))[0]
    status, out, _ = run(capsys, "similar", features, query, query, "-o", tmp_path / "s.png", "--count", 99)
    assert status == 0
    assert out.count("   1.000  ") == 2  # each query is the nearest to itself
    assert sum(line.startswith("   ") for line in out.splitlines()) >= 24  # all twelve of each
    code = re.search(r"x = (.*?); faiss\.normalize_L2\(x\)", out)[1]
    import pyarrow.parquet as pq

    x = eval(code, {"np": np, "pq": pq})
    assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.writeable) == ((12, 192), np.float32, True, True)
    status, out, _ = run(capsys, "similar", features.with_suffix(".npy"), query, "-o", tmp_path / "t.png")
    assert eval(re.search(r"x = (.*?); faiss", out)[1], {"np": np}).shape == (12, 192)


def test_features_of_another_model_are_refused_with_both_fingerprints(capsys, place, features, tmp_path):
    query = next((place / "photos").rglob("*.png"))
    own, other = (fingerprint(zoo.load(str(place / name)))[:12] for name in ("model", "other"))
    argv = ["similar", features, query, "-o", tmp_path / "s.png"]
    status, _, err = run(capsys, *argv, "--model", place / "other")
    assert status == 2
    assert own in err
    assert other in err
    assert not (tmp_path / "s.png").exists()
    hub.save(zoo.load(str(place / "model")), tmp_path / "moved")
    assert run(capsys, *argv, "--model", tmp_path / "moved")[0] == 0


def test_a_model_that_is_gone_or_has_been_trained_on_is_not_taken(capsys, place, tmp_path):
    (tmp_path / "photos").symlink_to(place / "photos")
    hub.save(zoo.load(str(place / "model")), tmp_path / "model")
    query = next((place / "photos").rglob("*.png"))
    run(capsys, "embed", tmp_path / "model", tmp_path / "photos", "-o", tmp_path / "f.npy")
    hub.save(zoo.load(str(place / "other")), tmp_path / "model")
    status, _, err = run(capsys, "similar", tmp_path / "f.npy", query, "-o", tmp_path / "s.png")
    assert status == 2
    assert "fingerprint" in err
    (tmp_path / "model").rename(tmp_path / "gone")
    status, _, err = run(capsys, "similar", tmp_path / "f.npy", query, "-o", tmp_path / "s.png")
    assert status == 2
    assert "say with --model where it is now" in err


def test_pictures_that_have_moved_are_asked_for(capsys, place, tmp_path):
    photo(tmp_path / "photos/0/a.png", 1)
    query = tmp_path / "photos/0/a.png"
    run(capsys, "embed", place / "model", tmp_path / "photos", "-o", tmp_path / "f.parquet")
    (tmp_path / "photos").rename(tmp_path / "moved")
    query = tmp_path / "moved/0/a.png"
    argv = ["similar", tmp_path / "f.parquet", query, "-o", tmp_path / "s.png"]
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert "--pictures FOLDER" in err
    assert run(capsys, *argv, "--pictures", tmp_path / "moved")[0] == 0
    status, _, err = run(capsys, *argv, "--pictures", tmp_path / "nowhere", "--force")
    assert (status, "--pictures FOLDER" in err) == (2, True)


def test_pictures_of_tables_are_drawn_by_the_names_of_their_rows(capsys, tmp_path):
    model = zoo.load("bilinear_d256.mnist")
    tables.embed(model, "samples/mnist", tmp_path / "f.npy", split="test")
    from zoo.data import readers

    items = readers.read("samples/mnist")["test"]
    (tmp_path / "q.png").write_bytes(items.images[3])
    ((first, second),) = neighbours.similar(tmp_path / "f.npy", [str(tmp_path / "q.png")], 2)
    assert (first.path, first.similarity) == (items.names[3], pytest.approx(1, abs=1e-4))
    assert second.label == items.classes[items.labels[3]]
    status, *_ = run(capsys, "similar", tmp_path / "f.npy", tmp_path / "q.png", "-o", tmp_path / "s.png")
    assert status == 0


@pytest.fixture
def titles(monkeypatch) -> list[list[str]]:
    """What stands above the pictures of each sheet."""
    made, write = [], plots.write
    monkeypatch.setattr(
        plots, "write", lambda fig, path: (made.append([ax.get_title() for ax in fig.axes]), write(fig, path))[1]
    )
    return made


def test_pictures_of_another_folder_with_the_same_names_are_not_drawn(capsys, place, tmp_path, monkeypatch):
    """The features say "photos"; where the command runs now there is another folder of that name."""
    for root, seed in (("mine", 0), ("other", 100)):
        for i in range(3):
            photo(tmp_path / root / "photos" / f"{i}.png", seed + i)
    monkeypatch.chdir(tmp_path / "mine")
    run(capsys, "embed", place / "model", "photos", "-o", "../f.npy")
    argv = ["similar", tmp_path / "f.npy", tmp_path / "mine/photos/0.png", "-o", tmp_path / "s.png"]
    for precision in ("bf16", "32"):
        assert run(capsys, *argv, "--precision", precision, "--force")[0] == 0
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "s.png").unlink()
    status, out, err = run(capsys, *argv)
    said = "photos/0.png is not the picture that was embedded; say with --pictures FOLDER where those of photos lie now"
    assert (status, out, err) == (2, "", f"zoo similar: {said}\n")
    assert not (tmp_path / "s.png").exists()
    assert run(capsys, *argv, "--pictures", tmp_path / "mine/photos")[0] == 0
    status, _, err = run(capsys, *argv, "--pictures", "photos", "--force")
    assert (status, "is not the picture that was embedded" in err) == (2, True)


def test_each_row_of_a_path_that_repeats_is_drawn_as_what_it_is(capsys, place, tmp_path, titles):
    for i in range(3):
        photo(tmp_path / f"{i}.png", i)
    images = [{"bytes": (tmp_path / f"{i}.png").read_bytes(), "path": "same.png"} for i in range(3)]
    parquet.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    (tmp_path / "l.csv").write_text("path\n0.png\n1.png\n0.png\n")
    for source, names in (
        ("t.parquet", [f"row {i} (same.png)" for i in range(3)]),
        ("l.csv", ["0.png", "1.png", "0.png"]),
    ):
        run(capsys, "embed", place / "model", tmp_path / source, "-o", tmp_path / "f.npy", "--force")
        assert embedded(tmp_path / "f.npy")[1] == names
        argv = ["similar", tmp_path / "f.npy", tmp_path / "1.png", "-o", tmp_path / "s.png", "--json", "--force"]
        status, out, _ = run(capsys, *argv)
        nearest = json.loads(out)[0]["neighbours"]
        assert (status, nearest[0]["row"], nearest[0]["similarity"]) == (0, 1, pytest.approx(1, abs=1e-4))
        assert [n["path"] for n in nearest] == [names[n["row"]] for n in nearest]
        assert [title.split("\n")[1] for title in titles[-1][1:]] == [n["path"] for n in nearest]


def test_names_with_dollars_and_of_bytes_that_are_no_text_are_drawn(capsys, place, tmp_path, titles):
    photo(tmp_path / "in/d$^$/$5_$6.png", 1)
    photo(tmp_path / "1.png", 2)
    try:
        os.rename(tmp_path / "1.png", os.fsencode(tmp_path / "in/d$^$") + b"/\xff.png")
    except OSError:
        pytest.skip("this disk takes names that are text alone")
    run(capsys, "embed", place / "model", tmp_path / "in", "-o", tmp_path / "f$^$.npy")
    query = tmp_path / "in/d$^$/$5_$6.png"
    status, _, err = run(capsys, "similar", tmp_path / "f$^$.npy", query, "-o", tmp_path / "s.png")
    assert (status, err) == (0, "")
    assert titles[0][1] == "1.000\nd\\$^\\$/\\$5_\\$6.png\nd\\$^\\$"
    assert "udcff" in titles[0][2]


def test_features_of_a_stream_are_searched_and_drawn_without_their_pictures(capsys, place, tmp_path, titles):
    run(capsys, "shard", place / "photos", "-o", tmp_path / "shards")
    run(capsys, "embed", place / "model", f"shards:{tmp_path / 'shards'}", "-o", tmp_path / "f.npy")
    query = sorted((place / "photos").rglob("*.png"))[0]
    argv = ["similar", tmp_path / "f.npy", query, "--count", 2]
    status, _, err = run(capsys, *argv, "-o", tmp_path / "s.png")
    assert status == 0
    assert err.startswith(
        f"warning: shards:{tmp_path}/shards is a stream, of which no picture is read by its name; the sheet shows the "
        "names of its pictures in empty frames\n"
    )
    assert [title.partition("\n")[0] for title in titles[0]][:2] == ["query", "1.000"]
    status, out, err = run(capsys, *argv, "--json")
    assert (status, len(json.loads(out)[0]["neighbours"]), err) == (0, 2, "")
    status, _, err = run(capsys, *argv)
    assert (status, err) == (
        2,
        "zoo similar: no picture to write; give -o SHEET.png, or --json to have the neighbours printed alone\n",
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("in", "in is a folder; give pictures, such as in/*.png"),
        ("gone.png", "no picture gone.png; give pictures that are there"),
        ("list.csv", "list.csv is no picture; give some with a suffix that Pillow knows, .jpg, .png, …"),
    ],
)
def test_a_query_that_is_no_picture_is_named(capsys, features, tmp_path, monkeypatch, query, said):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "in/1.png", 1)
    (tmp_path / "list.csv").write_text("path\nin/1.png\n")
    assert run(capsys, "similar", features, query, "-o", "s.png") == (2, "", f"zoo similar: {said}\n")


def test_the_page_of_the_verbs_reads_a_file_as_it_says(features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features.parquet").write_bytes(features.read_bytes())
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", (ROOT / "docs/verbs.md").read_text(encoding="utf-8"), re.DOTALL)[1], names)
    assert names["features"].shape == (12, 192)
    assert names["about"]["pool"] == "mean"


def test_a_sheet_of_no_format_is_refused_at_once(capsys, features, tmp_path):
    status, _, err = run(capsys, "similar", features, "gone.png", "-o", tmp_path / "s.parquet")
    assert (status, "of no format that is known; give a name that ends in .png" in err) == (2, True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda model, source, file: tables.embed(model, source, file, "none"), "65×192 numbers of each picture"),
        (lambda model, source, file: Image.new("L", (9, 9)).save(file, "png"), "no parquet file, or a damaged one"),
        (lambda model, source, file: tables.predict(zoo.load("bilinear_d256.mnist"), source, file), "no features of"),
        (lambda model, source, file: None, "no file .*zoo embed MODEL SOURCE"),
    ],
)
def test_what_is_no_file_of_features_is_refused(place, tmp_path, make, said):
    make(zoo.load(str(place / "model")), str(place / "photos"), tmp_path / "f.parquet")
    query = next((place / "photos").rglob("*.png"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        neighbours.similar(tmp_path / "f.parquet", [str(query)])


def test_an_array_without_what_stands_beside_it_is_refused(place, features, tmp_path):
    (tmp_path / "f.npy").write_bytes(features.with_suffix(".npy").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"f\.npy has no f\.npy\.json beside it"):
        neighbours.read(tmp_path / "f.npy")
    said = json.loads((place / "f.npy.json").read_text())
    (tmp_path / "f.npy.json").write_text(json.dumps(said | {"path": said["path"][1:]}))
    with pytest.raises(ValueError, match=r"12 rows, f\.npy\.json 11; write both again"):
        neighbours.read(tmp_path / "f.npy")


# codes and latents


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_codes_decode_to_what_the_model_reconstructs(capsys, place, tmp_path, kind):
    name, output = "vqvae_conv_small.cifar10", tmp_path / f"codes.{kind}"
    assert run(capsys, "codes", name, place / "photos", "-o", output, "--batch-size", 5)[0] == 0
    model = zoo.load(name)
    if kind == "npy":
        found, about = np.load(output), json.loads((tmp_path / "codes.npy.json").read_text())
        paths = about["path"]
    else:
        table = parquet.read_table(output)
        about = json.loads(table.schema.metadata[b"latentzoo"])
        found, paths = np.stack(table["codes"].to_numpy()).reshape(-1, *about["shape"]), table["path"].to_pylist()
    assert (found.dtype, len(paths), about["codes"]) == (np.int32, 12, model.count_codes())
    with torch.no_grad():
        x = pixels(place)
        torch.testing.assert_close(model.decode(torch.from_numpy(found).long()), model.reconstruct(x))


def test_each_of_codes_and_latents_names_the_other(capsys, place, tmp_path):
    photos, output = place / "photos", tmp_path / "out"
    status, _, err = run(capsys, "codes", "dcae_tiny_f8c4.tiny_imagenet", photos, "-o", f"{output}.npy")
    assert (status, "`zoo latents` writes latents" in err) == (2, True)
    status, _, err = run(capsys, "latents", "vqvae_conv_small.cifar10", photos, "-o", output)
    assert (status, "`zoo codes` writes its codes" in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_all_of_a_source_without_splits_is_written_for_training(capsys, place, tmp_path):
    """And a share is held out where it is asked for, with what is mirrored of it."""
    name, photos, output = "dcae_tiny_f8c4.tiny_imagenet", place / "photos", tmp_path / "latents"
    assert run(capsys, "latents", name, photos, "-o", output, "--flip", "--batch-size", 5)[0] == 0
    data = LatentData(str(output), batch_size=4)
    data.setup()
    assert len(data.splits["train"][1]) == 24
    for loader in (data.val_dataloader, data.test_dataloader):
        with pytest.raises(ValueError, match=r"without splits and has no \w+ latents; .*--data\.val_fraction 0\.1"):
            loader()
    held = LatentData(str(output), batch_size=4, val_fraction=0.25)
    held.setup()
    assert (len(held.splits["train"][1]), len(held.splits["val"][1])) == (18, 3)
    assert (held.served["test"], set(held.splits["val"][1].tolist())) == ("val", {0, 1})
    z = torch.cat([held.on_after_batch_transfer(b, 0)[0] for b in held.in_order("train", 50)])
    v = torch.cat([held.on_after_batch_transfer(b, 0)[0] for b in held.val_dataloader()])
    assert torch.cdist(z.flatten(1), v.flatten(1)).min() > 1e-3  # neither the pictures nor their mirror images
    both = ImageLatentData(str(output), batch_size=2, val_fraction=0.25)
    both.setup()
    model = zoo.load(name)
    for batch in (next(iter(both.val_dataloader())), next(iter(both.in_order("train", 18)))):
        (x, latents), y = both.on_after_batch_transfer(batch, 0)
        with torch.no_grad():
            torch.testing.assert_close(model.encode(x), latents, rtol=2e-3, atol=5e-3)
        assert set(y.tolist()) <= {0, 1}


def test_videos_and_latents_of_classes_that_training_lacks_are_read_too(capsys, tmp_path):
    for name in ("train/a/0", "train/b/1", "test/a/2", "test/c/3"):
        film(tmp_path / "films" / f"{name}.mp4", 40)
        photo(tmp_path / "photos" / f"{name}.png", 1)
    model = zoo.create("videomae_vit_tiny", frames=4, image_size=32, patch_size=16, depth=1, decoder_depth=1).eval()
    tables.embed(model, str(tmp_path / "films"), tmp_path / "f.npy", batch_size=2)
    assert embedded(tmp_path / "f.npy")[2] == ["a", "b", "a", "c"]
    output = tmp_path / "latents"
    assert run(capsys, "latents", "dcae_tiny_f8c4.tiny_imagenet", tmp_path / "photos", "-o", output)[0] == 0
    assert np.load(output / "test_labels.npy").tolist() == [0, 2]
    both = ImageLatentData(str(output), batch_size=2)
    both.setup()
    assert both.classes == ["a", "b", "c"]


def test_latents_are_written_as_before_and_the_new_way_is_said(capsys, place, tmp_path):
    name, output = "dcae_tiny_f8c4.tiny_imagenet", tmp_path / "latents"
    status, out, err = run(capsys, "latents", name, output, "--data", place / "photos")
    assert (status, out) == (0, f"{output}\n")
    assert f"--data is no longer needed: zoo latents {name} {place / 'photos'} -o {output}" in err
    before = (output / "train_latents.npy").read_bytes()
    status, _, err = run(capsys, "latents", name, place / "photos", "-o", output)
    assert (status, "exists; give another -o, or --force" in err) == (2, True)
    status, _, err = run(capsys, "latents", name, place / "photos", "-o", place / "photos", "--force")
    assert (status, "is not replaced: it holds no latents" in err) == (2, True)
    (output / "test_latents.npy").write_text("of an earlier source")
    assert run(capsys, "latents", name, place / "photos", "-o", output, "--force")[0] == 0
    assert sorted(p.name for p in output.iterdir()) == ["config.json", "train_labels.npy", "train_latents.npy"]
    assert (output / "train_latents.npy").read_bytes() == before
    status, _, err = run(capsys, "latents", name, place / "photos")
    assert (status, "-o FOLDER" in err) == (2, True)
    status, _, err = run(capsys, "latents", name, "x", "-o", "y", "--data", "z")
    assert (status, "two sources" in err) == (2, True)
