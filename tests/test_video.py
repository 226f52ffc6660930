"""Frames of videos: the one that is asked for, whatever the container says of times, and what is refused."""

import contextlib
import gc
import multiprocessing
import os
import random
import re
import sys
import warnings
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zoo import cli
from zoo.data import clips as c
from zoo.data import video as v
from zoo.data.shards import Sample
from zoo.nn.protocols import PIXELS, Input
from zoo.report.inputs import read_clip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(i):
    """Frame i: its number, a stripe for each of eight bits, (48, 64, 3)."""
    x = np.full((48, 64, 3), 40, np.uint8)
    for bit in range(8):
        x[6 * bit : 6 * bit + 6] += 160 * (i >> bit & 1)
    return x


def write(path, codec="libx264", times=range(0, 4400, 40), options=None, pix_fmt="yuv420p", pictures=picture, mux=None):
    """A video of 110 frames, or so many as there are times, in ms."""
    with av.open(str(path), "w", options=mux or {}) as out:
        stream = out.add_stream(codec, 25, {"g": "20", "bf": "0", "sc_threshold": "0"} | (options or {}))
        stream.height, stream.width = pictures(0).shape[:2]
        stream.pix_fmt, stream.bit_rate = pix_fmt, 2_000_000
        base = Fraction(1, 25) if path.suffix in (".avi", ".mpg") else Fraction(1, 1000)
        stream.codec_context.time_base = base
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(pictures(i), "rgba" if pictures(i).shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = round(time / 1000 / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def copied(path, out, begin, earlier=0.0, mux=None):
    """The packets of a video from the key frame before `begin` s on, in another container, so many s earlier."""
    with av.open(str(path)) as source, av.open(str(out), "w", options=mux or {}) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        source.seek(round(begin / stream.time_base), stream=stream)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                packet.pts -= round(earlier / stream.time_base)
                packet.dts -= round(earlier / stream.time_base)
                target.mux(packet)
    return out


def listed(path):
    """Times and flags of the packets, in the order that they are stored in."""
    with av.open(str(path)) as container:
        return [(p.pts, p.dts, p.is_discard) for p in container.demux(video=0) if p.size]


def numbers(frames):
    """Which frames these are, (len, H, W, 3) → [len]."""
    return [sum(int(f[6 * bit + 2 : 6 * bit + 4].mean() > 120) << bit for bit in range(8)) for f in frames]


def clips_are_right(path, first=0, count=110, draws=15):
    """Training clips, 16 frames of stride 4, show the frames that were drawn; so do the first and the last frames."""
    cut, asked = c.Cut(16, 48, stride=4, crop="centre", repeats=1), []
    for seed in range(draws):
        clip = cut(path, seed)[0].permute(0, 2, 3, 1).numpy()  # (16, H, W, 3)
        wanted = cut._times(count, random.Random(seed).random(), random.Random())
        assert numbers(clip) == [first + i for i in wanted], (path.name, seed)
        asked.append(wanted[0])
    assert len(set(asked)) > min(draws, count - 61) / 3
    assert numbers(v.read_frames(path, lambda n: [0, 1, n - 2, n - 1])) == [
        first + i for i in (0, 1, count - 2, count - 1)
    ]


@pytest.fixture
def decoded(monkeypatch):
    """Names of files that were decoded whole to see what they hold."""
    names, decode_all = [], v.Video.decode_all
    monkeypatch.setattr(
        v.Video, "decode_all", lambda video: names.append(getattr(video.source, "name", "")) or decode_all(video)
    )
    return names


# The frame that is asked for


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_a_varying_rate_are_counted(tmp_path, decoded, suffix):
    times = [40 * i if i < 50 else 2000 + 200 * (i - 50) for i in range(110)]
    path = write(tmp_path / f"phone.{suffix}", times=times, options={"g": "10", "bf": "2"})
    assert len({b - a for a, b in pairwise(sorted(t for t, _, _ in listed(path)))}) > 1
    clips_are_right(path)
    assert not decoded


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path, decoded):
    whole = write(tmp_path / "whole.mp4", options={"g": "25", "bf": "3"})
    path = copied(whole, tmp_path / "cut.mp4", begin=0.52, earlier=0.52, mux={"avoid_negative_ts": "disabled"})
    hidden = sum(discarded for _, _, discarded in listed(path))
    assert hidden == 13
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 110  # the header counts what is hidden
    clips_are_right(path, first=13, count=97)
    assert not decoded


def test_b_frames_in_avi_do_not_shift_the_count(tmp_path, decoded):
    path = write(tmp_path / "b.avi", "mpeg4", options={"g": "12", "bf": "2"})
    assert [t for t, _, _ in listed(path)] != sorted(t for t, _, _ in listed(path))
    clips_are_right(path)
    assert not decoded


def test_leading_frames_of_an_open_group_are_not_taken_for_whole(tmp_path):
    options = {"x264-params": "keyint=20:bframes=3:open-gop=1:b-adapt=0"}
    whole = write(tmp_path / "whole.mp4", options=options)
    clips_are_right(whole)
    part = copied(whole, tmp_path / "part.mkv", begin=1.4)
    with av.open(str(part)) as container:
        there = numbers(np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]))
    assert len(listed(part)) == len(there) + 3
    clips_are_right(part, first=there[0], count=len(there), draws=8)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("no_times.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
        ("hidden.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}),
        ("raw.h264", "libx264", {"g": "20", "bf": "3"}),
    ],
)
def test_where_packets_do_not_tell_all_is_decoded(tmp_path, decoded, name, codec, options):
    path = write(tmp_path / name, codec, options=options)
    clips_are_right(path, draws=6)
    assert set(decoded) == {name}


def test_packets_that_repeat_the_frame_before_are_no_frames(tmp_path):
    plain, path = write(tmp_path / "plain.avi", "mpeg4", times=range(0, 800, 40)), tmp_path / "dropped.avi"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stored = [p for p in source.demux(video=0) if p.size]
        repeats = av.Packet(b"\0\0\1\xb6" + bytes([0b01010000, 0b01001111]))  # a VOP that is not coded
        repeats.is_keyframe = False
        for time, packet in enumerate([*stored[:5], repeats, *stored[5:]]):
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, time, time, Fraction(1, 25)
            target.mux(packet)
    with av.open(str(path)) as container:
        there = numbers(np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]))
    assert len(listed(path)) == 21
    counts = []
    assert numbers(v.read_frames(path, lambda n: counts.append(n) or range(n))) == there
    assert counts == [len(there)]


def test_other_frames_than_listed_are_noticed(tmp_path, decoded, monkeypatch):
    path = write(tmp_path / "plain.mp4", options={"g": "20", "bf": "2"})
    order = v.Video._order
    monkeypatch.setattr(v.Video, "_order", lambda video: order(video)[::-1])
    clips_are_right(path, draws=5)
    assert len(decoded) == 6
    monkeypatch.setattr(v.Video, "_order", lambda video: order(video) + order(video)[-2:])  # two more than come out
    counts = []
    frames = v.read_frames(path, lambda n: counts.append(n) or [n - 1])
    assert (counts, numbers(frames)) == ([112, 110], [109])


def test_a_clip_is_not_decoded_from_the_start(tmp_path, monkeypatch):
    path, played, play = write(tmp_path / "long.mp4"), [], v.Video._play

    def noted(video, key):
        for number, frame in play(video, key):
            played.append(number)
            yield number, frame

    monkeypatch.setattr(v.Video, "_play", noted)
    v.read_frames(path, lambda n: [85, 88])
    assert played == list(range(80, 89))


def test_a_container_that_cannot_seek_is_read_from_the_start(tmp_path):
    path = write(tmp_path / "live.mkv", options={"g": "20", "bf": "2"}, mux={"live": "1"})
    clips_are_right(path, draws=6)
    clips_are_right(write(tmp_path / "broadcast.ts", options={"g": "20", "bf": "2"}), draws=6)


def test_a_sample_of_a_shard_is_read_as_a_file(tmp_path):
    path = write(tmp_path / "phone.mp4", times=[40 * i + (i > 50) * 160 * (i - 50) for i in range(110)])
    sample = Sample("000", "a.tar", 0, path.read_bytes(), 0)
    cut = c.Cut(4, 32, repeats=1)
    assert all(torch.equal(cut(path, seed), cut(sample, seed)) for seed in range(5))


# As it is to be seen


def turned(path, out, matrix):
    """The same file with another display matrix, (a, b, c, d)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c_, d = (n * 65536 for n in matrix)
    data[at : at + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in (a, b, 0, c_, d, 0, 0, 0, 1 << 30))
    out.write_bytes(data)
    return out


def corners(i):
    """Quarters of which each has a grey of its own."""
    x = np.zeros((48, 64, 3), np.uint8)
    x[:24, :32], x[:24, 32:], x[24:, :32], x[24:, 32:] = 40, 90, 140, 190
    return x


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((1, 0, 0, 1), [40, 90, 140, 190]),
        ((0, 1, -1, 0), [140, 40, 190, 90]),  # a quarter clockwise, as a phone that is held upright writes it
        ((-1, 0, 0, -1), [190, 140, 90, 40]),
        ((0, -1, 1, 0), [90, 190, 40, 140]),
        ((-1, 0, 0, 1), [90, 40, 190, 140]),
        ((1, 0, 0, -1), [140, 190, 40, 90]),
        ((0, 1, 1, 0), [40, 140, 90, 190]),
        ((0, -1, -1, 0), [190, 90, 140, 40]),
    ],
)
def test_a_display_matrix_is_obeyed(tmp_path, matrix, seen):
    plain = write(tmp_path / "plain.mp4", times=range(0, 320, 40), pictures=corners)
    path = turned(plain, tmp_path / "turned.mp4", matrix)
    frames = v.read_frames(path, lambda n: [0, 7])
    assert frames.shape == ((2, 48, 64, 3) if matrix[0] else (2, 64, 48, 3))
    height, width = frames.shape[1:3]
    for frame in frames:
        found = [frame[y, x].mean() for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
        assert np.abs(np.array(found) - seen).max() < 4
    for clip in (c.Cut(4, 32)(path, 0), c.Cut(4, 32, crop="centre", repeats=1)(path, 0)[0]):
        found = [clip[0, :, y, x].float().mean() for y in (4, 28) for x in (4, 28)]
        assert np.abs(np.array(found) - seen).max() < 6
    shown = read_clip(path, Input("clip", (4, 3, 32, 32), PIXELS)) * 255
    assert torch.equal(shown.round().to(torch.uint8), c.Cut(4, 32)(path, 0))


def half(i):
    """Red under nothing on the left, red on the right."""
    x = np.zeros((48, 64, 4), np.uint8)
    x[:, :, 0], x[:, 32:, 3] = 200, 255
    return x


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
        ("b.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0"}),
        ("c.mov", "qtrle", "argb", {}),
    ],
)
def test_white_is_behind_what_is_transparent(tmp_path, name, codec, pix_fmt, options):
    path = write(tmp_path / name, codec, range(0, 400, 40), options, pix_fmt, half)
    frames = v.read_frames(path, lambda n: [0, n - 1]).astype(int)
    assert np.abs(frames[:, :, :28] - 255).max() < 3
    assert np.abs(frames[:, :, 36:] - [200, 0, 0]).max() < 8


@pytest.mark.parametrize(
    ("pix_fmt", "size"), [("yuv420p10le", (48, 64)), ("yuv444p", (47, 63)), ("gray", (48, 64)), ("yuvj420p", (48, 64))]
)
def test_pixels_of_other_formats_are_read(tmp_path, pix_fmt, size):
    path = write(
        tmp_path / "v.mp4",
        times=range(0, 400, 40),
        pix_fmt=pix_fmt,
        pictures=lambda i: picture(i)[: size[0], : size[1]],
    )
    frames = v.read_frames(path, lambda n: range(n))
    assert frames.shape == (10, *size, 3)
    assert numbers(frames) == list(range(10))


# GIFs


def test_a_gif_without_delays_is_read(tmp_path):
    path, frames = tmp_path / "v.gif", [Image.fromarray(picture(i)) for i in range(12)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.write_bytes(re.sub(rb"\x21\xf9\x04.{4}\x00", b"", path.read_bytes(), flags=re.DOTALL))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 1
    assert numbers(v.read_frames(path, lambda n: range(n))) == list(range(12))


def test_a_gif_is_seen_as_pyav_shows_it(tmp_path):
    path, frames = tmp_path / "v.gif", [Image.new("RGBA", (64, 48)) for _ in range(4)]
    for i, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (10 * i, 0, 10 * i + 10, 48))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, disposal=2)
    with av.open(str(path)) as container:
        wanted = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    found = v.read_frames(path, lambda n: range(n))
    assert np.array_equal(found, wanted)
    assert found[0, 0, -1].tolist() == [255, 255, 255]


def test_a_gif_is_closed_when_it_is_read(tmp_path):
    path, frames = tmp_path / "v.gif", [Image.new("L", (8, 8), 20 * i) for i in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        v.read_frames(path, lambda n: range(n))
        v.check_frames(path, 4)
    assert not [w for w in said if w.category is ResourceWarning]


def test_a_check_decodes_all_and_colours_one(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4")
    decoded, coloured, play, pixels = [], [], v.Video._play, v.Video._pixels
    monkeypatch.setattr(v.Video, "_play", lambda *a: (decoded.append(f) or f for f in play(*a)))
    monkeypatch.setattr(v.Video, "_pixels", lambda self, frame: coloured.append(frame) or pixels(self, frame))
    v.check_frames(path, 110)
    assert (len(decoded), len(coloured)) == (110, 1)


# Refused


def test_a_change_of_size_names_the_file(tmp_path):
    parts = [write(tmp_path / "a.ts"), write(tmp_path / "b.ts", pictures=lambda i: picture(i)[:32, :48])]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    with pytest.raises(ValueError, match=r"both\.ts changes its size from 64×48 to 48×32 px; cut it in two"):
        v.read_frames(path, lambda n: range(0, n, 20))
    with pytest.raises(ValueError, match=r"both\.ts changes its size"):
        v.check_frames(path, 16)


@pytest.mark.parametrize(
    ("name", "mux"),
    [
        ("v.mp4", {"movflags": "faststart"}),
        ("v.mp4", {}),
        ("v.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("v.webm", {}),
        ("v.avi", {}),
    ],
)
def test_a_file_that_ends_early_is_cut_off(tmp_path, name, mux):
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(name[1:], "libx264")
    path = write(tmp_path / name, codec, mux=mux)
    data = path.read_bytes()
    assert v.read_frames(path, lambda n: [n - 1]).shape == (1, 48, 64, 3)
    part = data[: len(data) * 7 // 10]
    path.write_bytes(part)
    for read in (lambda: v.read_frames(path, lambda n: [0]), lambda: v.check_frames(path, 1)):
        with pytest.raises(
            ValueError, match=rf"{name} is cut off: it holds {len(part):,} of at least [\d,]+ bytes; get"
        ):
            read()


def test_a_header_that_counts_too_many_is_no_cut(tmp_path):
    path = write(tmp_path / "v.avi", "mpeg4")
    data = bytearray(path.read_bytes())
    for tag, at in ((b"avih", 24), (b"strh", 40)):  # frames of the file, length of the stream
        where = data.index(tag) + at
        data[where : where + 4] = (150).to_bytes(4, "little")
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 150
    clips_are_right(path, draws=6)


def test_a_cover_is_no_video(tmp_path):
    def covered(path, with_film):
        with av.open(str(path), "w") as out:
            streams = [out.add_stream("mjpeg", 25), *([out.add_stream("libx264", 25)] if with_film else [])]
            for stream in streams:
                stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            streams[0].pix_fmt = "yuvj420p"
            streams[0].disposition = av.stream.Disposition.attached_pic
            for stream in streams:
                for i in range(1 if stream is streams[0] else 30):
                    out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(3 * i), "rgb24")))
                out.mux(stream.encode())
        return path

    film = covered(tmp_path / "film.mp4", True)
    assert numbers(v.read_frames(film, lambda n: range(n))) == list(range(0, 90, 3))
    with pytest.raises(ValueError, match=r"song\.mp4 holds no video, only a cover"):
        v.read_frames(covered(tmp_path / "song.mp4", False), lambda n: [0])


def test_what_skip_keeps_can_be_trained_on(tmp_path, monkeypatch):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    write(folder / "good.mp4", times=[40 * i + (i > 50) * 160 * (i - 50) for i in range(110)])
    copied(folder / "good.mp4", folder / "hidden.mp4", begin=3.0, earlier=3.0, mux={"avoid_negative_ts": "disabled"})
    (folder / "sizes.ts").write_bytes(write(tmp_path / "a.ts").read_bytes())
    data = bytearray(write(folder / "middle.mkv", "mjpeg", pix_fmt="yuvj420p").read_bytes())
    (folder / "text.mp4").write_text("words")
    begin = [n for n in range(len(data)) if data[n : n + 3] == b"\xff\xd8\xff"][70]
    data[begin : begin + 800] = bytes(800)  # one picture in mid-file
    (folder / "middle.mkv").write_bytes(data)
    paths = sorted(folder.glob("*.m*"))
    with pytest.warns(UserWarning, match="2 of 4 videos are left out") as said:
        kept, _ = c.readable(paths, [0] * len(paths), 16)
    left = set(paths) - set(kept)
    assert {p.name for p in left} == {"middle.mkv", "text.mp4"}
    decoded: list[str] = []
    check = c.check_frames
    monkeypatch.setattr(c, "check_frames", lambda path, least: decoded.append(path.name) or check(path, least))
    with pytest.warns(UserWarning, match="2 of 4 videos are left out"):
        assert c.readable(paths, [0] * len(paths), 16)[0] == kept
    assert not decoded  # what was found is known, until a file changes
    (folder / "text.mp4").write_text("other words")
    with pytest.warns(UserWarning, match="2 of 4 videos are left out"):
        c.readable(paths, [0] * len(paths), 16)
    assert decoded == ["text.mp4"]
    assert all(p.name in str(said[0].message) for p in left)
    for path in kept:
        for seed in range(20):
            c.Cut(16, 32, repeats=1)(path, seed)
    with contextlib.suppress(ValueError):
        for seed in range(20):
            c.Cut(16, 32, repeats=1)(folder / "middle.mkv", seed)
        pytest.fail("middle.mkv can be trained on")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_frees_nothing_that_has_threads(tmp_path):
    # As DataLoader's do: a converter's threads are not there in the child, and freeing it there never returns.
    write(tmp_path / "a.mp4")
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            v.read_frames(tmp_path / "a.mp4", lambda count: [0, count - 1])
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(30)
        ended = child.exitcode == 0
        child.kill()
    finally:
        gc.enable()
    assert ended


# Without PyAV


@pytest.fixture
def without_pyav(monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "av"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "av", None)


NEEDS = r"a\.mp4 is a video, which needs the package av; pip install 'latentzoo\[video\]'$"


def test_a_video_without_pyav_is_refused_in_a_line_that_names_the_extra(tmp_path, without_pyav, capsys):
    for name in ("cat/a.mp4", "dog/b.gif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_bytes(b"anything")
    for bad in ("refuse", "skip"):
        with pytest.raises(ValueError, match=NEEDS):
            c.ClipData(str(tmp_path / "in"), bad=bad).setup()
    for read in (lambda path: v.read_frames(path, lambda n: [0]), lambda path: v.check_frames(path, 1)):
        with pytest.raises(ValueError, match=NEEDS):
            read(tmp_path / "in/cat/a.mp4")
    capsys.readouterr()
    assert cli.main(["shard", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--bad", "skip"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(NEEDS, line)


def test_clips_of_gifs_and_sprites_need_no_pyav(tmp_path, without_pyav):
    for name in ("cat/a.gif", "dog/b.gif"):
        (tmp_path / name).parent.mkdir()
        frames = [Image.fromarray(picture(i)) for i in range(8)]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=40)
    for bad in ("refuse", "skip"):
        data = c.ClipData(
            str(tmp_path), frames=4, image_size=32, batch_size=1, val_fraction=0.5, num_workers=0, bad=bad
        )
        data.setup("fit")
        x, _, _ = next(iter(data.val_dataloader()))
        assert x.shape == (1, 4, 3, 32, 32)
    sprites = c.ClipData("sprites", frames=8, image_size=64, limit=4, batch_size=2)
    sprites.setup("fit")
    assert next(iter(sprites.val_dataloader()))[0].shape == (2, 8, 3, 64, 64)
