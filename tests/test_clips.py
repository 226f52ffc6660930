"""Clips from video files, sprites and moving digits: the right frames, the same for the same seed, what is refused."""

import warnings

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zoo import cli
from zoo.data import clips as c
from zoo.data.clips import ClipData


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_video(path, count=40, size=(64, 48), codec=None, start=0):
    """A video whose frame i is grey of brightness start + 5 i, nearly lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        frames = [Image.new("RGB", size, (start + 5 * i,) * 3) for i in range(count)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
        return path
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec or {".avi": "mpeg4", ".webm": "libvpx-vp9"}.get(path.suffix, "libx264"), 25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), start + 5 * i, np.uint8), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def brightness(clip):
    """Which frames a clip shows, read off their brightness; (F, C, H, W) uint8 or float → (F,)."""
    x = clip.float() * (255 if clip.is_floating_point() else 1)
    return [round(v / 5) for v in x.mean((1, 2, 3)).tolist()]


@pytest.fixture
def folder(tmp_path):
    for split, each in (("train", 3), ("val", 1), ("test", 1)):
        for name in ("jump", "run"):
            for i in range(each):
                write_video(tmp_path / "videos" / split / name / f"{i}.mp4")
    return tmp_path / "videos"


def ready(source, stage="fit", **args):
    data = ClipData(
        str(source), **{"frames": 4, "image_size": 32, "stride": 2, "batch_size": 2, "num_workers": 0} | args
    )
    data.setup(stage)
    return data


def epoch(data, loader=None):
    return [data.on_after_batch_transfer(batch, 0) for batch in loader or data.train_dataloader()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b))


# Decoding


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".gif", ".mkv", ".mov"])
def test_every_container_gives_the_frames_asked_for(tmp_path, suffix):
    path = write_video(tmp_path / f"v{suffix}")
    frames = c.read_frames(path, lambda count: [0, 7, 8, count - 1])
    assert frames.dtype == np.uint8
    assert frames.shape == (4, 48, 64, 3)
    assert np.abs(frames.mean((1, 2, 3)) - 5 * np.array([0, 7, 8, 39])).max() < 2


def test_frames_far_into_a_long_video_are_the_right_ones(tmp_path):
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 30, {"g": "20", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 64, "yuv420p", 4_000_000
        for i in range(500):
            pixels = np.zeros((64, 64, 3), np.uint8)
            for bit in range(9):  # the frame's number, in stripes
                pixels[:, 7 * bit : 7 * bit + 7] = 255 * (i >> bit & 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode())
    wanted = [311, 312, 340, 499]
    frames = c.read_frames(path, lambda count: wanted)
    numbers = [sum((frame[:, 7 * bit + 2 : 7 * bit + 5].mean() > 127) << bit for bit in range(9)) for frame in frames]
    assert numbers == wanted


def test_a_dense_clip_has_its_stride_and_the_whole_video_is_its_place(folder):
    data = ready(folder)
    loader = data.train_dataloader()
    found = [brightness(clip) for _ in range(4) for x, _ in epoch(data, loader) for clip in x]
    assert all(np.diff(f).tolist() == [2, 2, 2] for f in found)
    assert {f[0] for f in found} <= set(range(34))
    assert len({f[0] for f in found}) > 5


def test_a_uniform_clip_takes_a_frame_of_every_part(folder):
    found = [brightness(clip) for x, _ in epoch(ready(folder, sampling="uniform")) for clip in x]
    for f in found:
        assert [i // 10 for i in f] == [0, 1, 2, 3]
    x, _, _ = next(iter(ready(folder, sampling="uniform").val_dataloader()))
    assert brightness(x[0]) == [5, 15, 25, 35]  # evaluation takes the middles


def test_a_short_video_is_sampled_closer(folder):
    write_video(folder / "val" / "jump" / "0.mp4", count=5)
    x, _, _ = next(iter(ready(folder, stride=4).val_dataloader()))
    assert brightness(x[0]) == [0, 1, 3, 4]


# Training and evaluation


def test_a_video_is_decoded_once_for_several_clips(folder, monkeypatch):
    decoded, read = [], c.read_frames
    monkeypatch.setattr(c, "read_frames", lambda path, *args: decoded.append(path) or read(path, *args))
    batches = epoch(ready(folder, repeats=2, batch_size=4))
    assert [len(x) for x, _ in batches] == [4, 4, 4]
    assert len(decoded) == len(set(decoded)) == 6
    for _, y in batches:
        assert y[0] == y[1]
        assert y[2] == y[3]
    assert any(not torch.equal(x[0], x[1]) for x, _ in batches)


@pytest.mark.parametrize(("repeats", "videos"), [(1, 4), (2, 2), (4, 1)])
def test_a_batch_counts_videos_and_the_learning_rate_with_it(folder, repeats, videos, capsys, caplog):
    mine = folder.parent / "mine.yaml"
    mine.write_text(
        f"""
model:
  class_path: zoo.LitClassifier
  init_args:
    arch: videomae_vit_tiny_classifier
    arch_args: {{frames: 4, image_size: 32, patch_size: 16, dim: 24, depth: 1, heads: 2}}
    num_classes: 2
    base_lr: 1.0e-3
data:
  class_path: zoo.ClipData
  init_args: {{source: {folder}, frames: 4, image_size: 32, batch_size: 4, repeats: {repeats}, num_workers: 0}}
trainer: {{max_epochs: 1, accumulate_grad_batches: 3, enable_model_summary: false}}
"""
    )
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        assert cli.main(["validate", str(mine)]) == 0
    rate = 1e-3 * 3 * videos / 256
    of = "" if repeats == 1 else f" of {3 * videos} videos"
    assert f"batch       12 clips{of} an optimiser step, learning rate {rate:g}\n" in capsys.readouterr().out
    said = f"learning rate {rate:.4g} = 0.001 × {3 * videos} videos a step / 256"
    assert said in caplog.messages


def test_the_same_seed_gives_the_same_epoch_and_the_next_epoch_another(folder):
    args = {"crop": "multi_scale", "flip": True, "num_workers": 0}
    first, again, other = (ready(folder, seed=s, **args) for s in (0, 0, 1))
    loader = first.train_dataloader()
    a = epoch(first, loader)
    assert same(a, epoch(again))
    assert not same(a, epoch(first, loader))
    assert not same(a, epoch(other))


def test_workers_give_what_the_process_itself_gives(folder):
    assert same(epoch(ready(folder)), epoch(ready(folder, num_workers=2)))


def test_an_epoch_goes_on_where_it_stopped(folder):
    whole = epoch(ready(folder, repeats=2))
    data = ready(folder, repeats=2)
    batches = data.train_dataloader()
    stream = iter(batches)
    next(stream), next(stream)
    later = data.train_dataloader()
    later.load_state_dict(batches.state_dict())
    assert same(epoch(data, later), whole[2:])


def test_a_test_video_is_seen_in_views(folder):
    data = ready(folder, stage="test", views=(3, 3), image_size=48)
    x, y, _ = next(iter(data.test_dataloader()))
    assert x.shape == (2, 9, 4, 3, 48, 48)
    assert y.tolist() == [0, 1]
    starts = [brightness(view)[0] for view in x[0]]
    assert starts == [6] * 3 + [16] * 3 + [28] * 3


def test_augmentation_moves_all_frames_alike(folder, monkeypatch):
    still = np.random.default_rng(0).integers(0, 255, (1, 40, 40, 3), np.uint8).repeat(4, 0)
    monkeypatch.setattr(c, "read_frames", lambda path, choose: still[: len(choose(4))])
    cut = c.Cut(4, 32, stride=1, randaugment="rand-m7-n4-mstd0.5-inc1", repeats=1)
    clips = torch.cat([cut(folder, seed) for seed in range(12)])
    assert (clips == clips[:, :1]).all()
    assert len(clips.flatten(1).unique(dim=0)) > 9
    data = ready("sprites", frames=8, image_size=64, limit=2, batch_size=18, erase=1.0)
    (x, _), (plain, _) = (
        epoch(d)[0] for d in (data, ready("sprites", frames=8, image_size=64, limit=2, batch_size=18))
    )
    changed = (x != plain).any(2)  # (B, F, H, W)
    assert (changed.flatten(1).any(1)).all()
    assert changed.any(1).float().mean() < 0.5


@pytest.mark.parametrize("crop", ["multi_scale", "resized", "centre"])
def test_crops_lie_inside_and_share_a_place_over_time(tmp_path, crop):
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (48, 1, 3))
    cut = c.Cut(4, 32, stride=1, crop=crop, repeats=1)
    read, c.read_frames = c.read_frames, lambda path, choose: np.stack([ramp] * len(choose(8)))
    try:
        clips = torch.cat([cut(tmp_path, seed) for seed in range(20)])
    finally:
        c.read_frames = read
    assert clips.shape == (20, 4, 3, 32, 32)
    assert (clips == clips[:, :1]).all()
    widths = (clips[:, 0, 0, 0, -1].int() - clips[:, 0, 0, 0, 0].int()) / 4
    assert widths.max() <= (64 if crop == "resized" else 48)
    assert len(widths.unique()) == 1 if crop == "centre" else len(widths.unique()) > 3


def test_sizes_may_differ_within_a_folder(folder):
    write_video(folder / "train" / "jump" / "0.mp4", size=(96, 64))
    write_video(folder / "train" / "run" / "1.mp4", size=(48, 80))
    assert all(x.shape == (2, 4, 3, 32, 32) for x, _ in epoch(ready(folder)))


@pytest.mark.parametrize("separator", [" ", ","])
def test_lists_name_files_and_classes(folder, separator):
    for split in ("train", "test"):
        lines = [
            f"{p.relative_to(folder)}{separator}{i % 3}" for i, p in enumerate(sorted(folder.glob(f"{split}/*/*")))
        ]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    data = ready(folder)
    assert data.num_classes == 3
    assert sorted(torch.cat([y for _, y in epoch(data)]).tolist()) == [0, 0, 1, 1, 2, 2]


def test_validation_can_be_held_out(folder):
    for split in ("val", "test"):
        for file in (folder / split).rglob("*.mp4"):
            file.unlink()
        for name in ("jump", "run"):
            (folder / split / name).rmdir()
        (folder / split).rmdir()
    with pytest.raises(ValueError, match=r"no val split.*val_fraction"):
        ready(folder, val_fraction=0.0)
    data = ready(folder)
    assert data.splits["val"][1].bincount().tolist() == [1, 1]
    data = ready(folder, val_fraction=0.34)
    assert [len(data.splits[s][1]) for s in ("train", "val")] == [4, 2]
    assert data.splits["val"][1].bincount().tolist() == [1, 1]


def test_so_many_clips_a_class(folder):
    data = ready(folder, limit=1)
    assert sorted(data.splits["train"][1].tolist()) == [0, 1]
    assert ready("sprites", frames=8, image_size=64, limit=3).splits["train"][1].bincount().tolist() == [3] * 9


# Damaged, short, missing


def damaged(folder):
    whole = (folder / "train" / "jump" / "0.mp4").read_bytes()
    (folder / "train" / "jump" / "0.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "jump" / "1.mp4").write_text("these are words, not frames\n" * 50)
    write_video(folder / "train" / "run" / "0.mp4", count=3)


def test_damaged_and_short_files_are_left_out_by_name(folder):
    damaged(folder)
    with pytest.warns(UserWarning, match="3 of 6 videos are left out") as said:
        data = ready(folder, bad="skip")
    for name in ("jump/0.mp4", "jump/1.mp4", "run/0.mp4 has 3 frames, 4 are asked for"):
        assert name in str(said[0].message)
    assert len(epoch(data)) == 1


def test_a_file_cut_off_behind_its_index_is_found_out(tmp_path, folder):
    file = folder / "train" / "jump" / "0.avi"
    write_video(file, count=50)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"0\.avi is cut off: it holds"):
        ready(folder, bad="skip")


@pytest.mark.parametrize(
    ("name", "said"),
    [("jump/0.mp4", "is cut off: it holds"), ("jump/1.mp4", "not a video"), ("run/0.mp4", "has 3 frames, 4 are asked")],
)
def test_damaged_and_short_files_are_refused_by_name(folder, name, said):
    damaged(folder)
    cut = c.Cut(4, 32, repeats=1)
    with pytest.raises(ValueError, match=f"{name}.*{said}"):
        cut(folder / "train" / name, 0)


def test_a_text_file_among_the_videos_stops_an_epoch_with_its_name(folder):
    damaged(folder)
    with pytest.raises(ValueError, match=r"jump|run"):
        epoch(ready(folder))


def test_a_worker_that_meets_damage_ends_the_run_in_one_line(folder, tmp_path, capsys):
    damaged(folder)
    argv = ["fit", "videomae/smoke", "--runs", str(tmp_path), "--data.source", str(folder), "--data.num_workers", "1"]
    argv += ["--data.batch_size", "2", "--data.eval_batch_size", "2", "--trainer.enable_progress_bar", "false"]
    assert cli.main(argv) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("zoo fit: ")
    assert str(folder) in said
    assert "Traceback" not in said


def test_folders_that_are_wrong_are_said_so(folder, tmp_path):
    (folder / "train" / "swim").mkdir()
    with pytest.warns(UserWarning, match=r"without empty classes \(1: train/swim\)"):
        assert "swim" not in ready(folder).classes
    with pytest.raises(FileNotFoundError, match="no folder"):
        ready(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no videos"):
        ready(tmp_path / "empty")
    (tmp_path / "empty" / "train.csv").write_text("a.mp4 3\n")
    with pytest.raises(FileNotFoundError, match=r"a\.mp4, which is not there"):
        ready(tmp_path / "empty")
    (tmp_path / "empty" / "train.csv").write_text("a.mp4\n")
    with pytest.raises(ValueError, match=r'line 1 is .*expected "path label"'):
        ready(tmp_path / "empty")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"sampling": "denso"}, "did you mean dense"),
        ({"crop": "random"}, "allowed multi_scale, resized, centre"),
        ({"frames": 0}, "at least 1"),
        ({"batch_size": 3, "repeats": 2}, "no multiple of repeats=2"),
        ({"val_fraction": 1.0}, "allowed 0 to below 1"),
    ],
)
def test_arguments_out_of_range_are_refused(args, said):
    with pytest.raises(ValueError, match=said):
        ClipData("videos", **args)


# Sprites and moving digits


def test_sprites_are_composed_as_the_benchmark_says():
    from zoo.data.readers import SAMPLES

    data = ready("sprites", stage="test", frames=8, image_size=64)
    clips, labels = data.splits["test"]
    assert clips.array.shape == (296 * 9, 8, 3, 64, 64)
    assert data.classes[labels[4]] == "spell cast, front"
    characters = c.sprite_characters()
    assert len(characters["train"]) == 1000
    assert not set(characters["train"]) & set(characters["test"])
    who = c.attributes(characters["test"][:1])[0]
    frame = Image.new("RGBA", (64, 64), (0, 0, 0, 255))  # Pillow's own compositing is the oracle
    for layer, variant in (*zip(c.SHEET_LAYERS, who), ("shoes", 1)):
        sheet = Image.open(SAMPLES / "sprite_sheets" / layer / f"{variant}.png").convert("RGBA")
        cell = 30  # sixth frame of a spell cast from the front is cell 31; the seventh, 30
        left, top = cell % 13 * 64, cell // 13 * 64
        frame.alpha_composite(sheet.crop((left, top, left + 64, top + 64)))
    wanted = np.asarray(frame.convert("RGB")).transpose(2, 0, 1).astype(int)
    assert np.abs(clips.array[4, 6].numpy().astype(int) - wanted).max() <= 2


def test_sprites_know_their_attributes():
    data = ready("sprites", stage="test", frames=8, image_size=64, label="hair")
    assert data.num_classes == 6
    wanted = c.attributes(c.sprite_characters()["test"])[:, 3]
    assert torch.equal(data.splits["test"][1], torch.from_numpy(wanted.repeat(9)))


def test_a_missing_sheet_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"body/0\.png is missing"):
        ready(f"sprites:{tmp_path}", frames=8, image_size=64)


def test_moving_digits_move_and_are_the_same_for_the_same_seed():
    args = {"frames": 6, "image_size": 48, "channels": 1, "batch_size": 8}
    first, again = ready("moving:samples/mnist", **args), ready("moving:samples/mnist", **args)
    a, b = epoch(first), epoch(again)
    assert same(a, b)
    x, y = a[0]
    assert x.shape == (8, 6, 1, 48, 48)
    assert y.max() <= 9
    assert all((clip[1:] != clip[:-1]).flatten(1).any(1).all() for clip in x)
    assert (x.flatten(2).amax(2) > 0.9).all()  # no digit has left
    held = [next(iter(first.val_dataloader()))[0] for _ in range(2)]
    assert torch.equal(*held)


def test_nothing_is_said_of_files_that_are_whole(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epoch(ready(folder, bad="skip"))


def test_every_video_of_a_source_is_there_once_for_what_fits_nothing(folder):
    data = ClipData(str(folder), 4, 32, batch_size=4, num_workers=0)
    assert data.roles() == {"train": "6 videos", "val": "2 videos", "test": "2 videos"}
    labels = [y for batch in data.predict_dataloader() for y in data.on_after_batch_transfer(batch, 0)[1].tolist()]
    assert labels == [0, 0, 0, 1, 1, 1, 0, 1, 0, 1]
    flat = ClipData(str(folder / "train"), 4, 32, batch_size=4, num_workers=0)
    assert flat.roles() == {"train": "6 videos"}
    assert len(flat.encoded("all")) == 6
    flat.setup()
    assert len(flat.splits["train"][1]) == 4  # of each class one is held out
    assert sum(len(y) for _, y, _ in flat.in_order("all", 5)) == 6
    with pytest.raises(ValueError, match=r"sprites is made split by split; ask for one, in_order\('test'\)"):
        ClipData("sprites", 8, 64).predict_dataloader()
