"""Frames of a video: how many there are, and the pixels of some of them. Only this module knows PyAV.

Pillow reads GIFs, so these need no extra; PyAV is that of `latentzoo[video]`.

Frame i is the i-th of those that are shown. No time and rate give it: rates vary, packets are stored in another order
than they are shown in, and an edit list hides some. So the packets are listed, which decodes nothing, and put into the
order of their times. Decoding begins at the last key frame before the first frame that is wanted, and what comes out
is compared with the list. Where the list does not tell, or other frames come out than it says, the whole video is
decoded once to see what it holds, and again from its start: that takes longer, and no frame is a wrong one.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, dropwhile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from zoo.data.pictures import AGAIN, Damaged
from zoo.data.shards import Sample

if TYPE_CHECKING:
    from av import Packet, VideoFrame

Source = Path | Sample
T = TypeVar("T")

# Codecs of which each packet becomes one frame. MPEG-4's may also say "as before", in fewer bytes than any frame has.
ONE_EACH = {"av1", "dnxhd", "ffv1", "h264", "hevc", "libdav1d", "mjpeg", "mpeg4", "prores", "rawvideo", "vp9"}
AS_BEFORE = 20
WANTS_VIDEO = "pip install 'latentzoo[video]'"
BLANK = np.uint8(0)
DECODER = "frames as they are shown 1"  # changes with what is read of a video, so what was found of it does


def read_frames(source: Source, choose: Callable[[int], list[int]]) -> np.ndarray:
    """Some frames of a video, upright and with white behind what is transparent, (len, H, W, 3) uint8.

    Args:
        source: a file, or a sample that was read from a shard.
        choose: from the number of frames to the ascending indices that are wanted. It is asked again where decoding
            shows that there are more or fewer; the last answer holds.

    Raises:
        ValueError: not a video, damaged, cut off, or of more than one size; it is named.
    """

    def read(video: "Video | Gif") -> np.ndarray:
        wanted = choose(video.count)
        each = sorted(set(wanted))
        found = dict(zip(each, _of_one_size(source, video.frames(each))))
        return np.stack([found[i] for i in wanted])

    return _reading(source, read)


def check_frames(source: Source, least: int) -> None:
    """Decode a whole video as `read_frames` does, and keep nothing; colours are made of the first frame alone.

    Raises:
        ValueError: as `read_frames`, or fewer frames than `least`.
    """

    def read(video: "Video | Gif") -> None:
        check_count(source, video.count, least)
        for _ in _of_one_size(source, video.frames(range(video.count), coloured=False)):
            pass

    _reading(source, read)


def check_count(source: Source, count: int, least: int) -> None:
    """Refuse a video that is too short.

    Raises:
        ValueError: it has fewer frames than `least`.
    """
    if count < least:
        raise Damaged(f"{source} has {count} frames, {least} are asked for", "ask for fewer", "videos")


def check_library(paths: Iterable[Path]) -> None:
    """Refuse videos that nothing here decodes.

    Raises:
        ValueError: one is no GIF, and PyAV is not here.
    """
    film = next((path for path in paths if path.suffix.lower() != ".gif"), None)
    if film is not None:
        _pyav(film)


def _pyav(source: Source) -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{source} is a video, which needs the package av; {WANTS_VIDEO}") from error
    return av


def _of_one_size(source: Source, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    first = None
    for pixels in frames:
        first = pixels.shape if first is None else first
        if pixels.shape != first:
            raise ValueError(
                f"{source} changes its size from {first[1]}×{first[0]} to {pixels.shape[1]}×{pixels.shape[0]} px; cut "
                "it in two there, or write it anew in one size"
            )
        yield pixels


def _reading(source: Source, read: Callable[[Any], T]) -> T:
    """What `read` makes of a video, at the second attempt where the list of its packets was wrong."""
    from PIL import Image

    with _opened(source) as file:
        kind, size = file.read(4), file.seek(0, io.SEEK_END)
        stated = _stated_bytes(file)
    cut = f"{source} is cut off: it holds {size:,} of at least {stated:,} bytes" if size < stated else ""
    is_gif = kind == b"GIF8"
    errors = (
        OSError,
        EOFError,
        Image.DecompressionBombError,
        *(() if is_gif else (Surprise, _pyav(source).FFmpegError)),
    )
    try:
        if is_gif:
            gif = Gif(source)
            with gif.image:
                return read(gif)
        video = Video(source)
        try:
            if cut and (not video.stated or len(video.packets) < video.stated):
                raise Damaged(cut, AGAIN, "videos")
            try:
                return read(video)
            except Surprise:
                video.decode_all()
                return read(video)
        finally:
            video.close()
    except errors as error:
        raise Damaged(cut or f"{source} is not a video that can be decoded ({error})", AGAIN, "videos") from error


def _opened(source: Source) -> BinaryIO:
    return open(source, "rb") if isinstance(source, Path) else io.BytesIO(source.data)


class Surprise(Exception):
    """Other frames came out than were listed."""


class Listed(NamedTuple):
    """A packet as the container lists it."""

    times: tuple[int | None, int | None]  # of being shown and of being decoded
    mark: tuple[int | None, int]  # position and size in bytes, which tell it after a seek
    key: bool
    shown: bool


class Video:
    """A video that is open.

    Its packets are numbered as they are stored, and the number of a frame is that of the packet it was decoded from.
    `count` frames are shown, in `order`, numbers of packets.
    """

    def __init__(self, source: Source):
        from av.video.reformatter import VideoReformatter

        self.source = source
        self.converter = VideoReformatter()
        self._open()
        self.stated: int = self.stream.frames  # 0 where the container does not say
        self.packets, sound = [], True
        for p in self._stored():
            self.packets.append(Listed((p.pts, p.dts), (p.pos, p.size), p.is_keyframe, not p.is_discard))
            sound &= not p.is_corrupt
        self.start = next((n for n, p in enumerate(self.packets) if p.key), 0)  # nothing before it can be decoded
        marks = {p.mark: n for n, p in enumerate(self.packets)}
        self.marks = marks if len(marks) == len(self.packets) else {}
        order = self._order() if sound else None
        if order is None:
            self.decode_all()
        else:
            self.order, self.seeks = order, True

    def close(self) -> None:
        """Free what was opened, now: a converter has threads, and a forked worker that frees one waits for ever."""
        self.container.close()
        del self.converter

    @property
    def count(self) -> int:
        return len(self.order)

    def decode_all(self) -> None:
        """Find the order by decoding the whole video."""
        self.order, self.seeks = [number for number, _ in self._play(self.start)], False

    def frames(self, wanted: Sequence[int], coloured: bool = True) -> Iterator[np.ndarray]:
        """Pixels (H, W, 3) uint8 of frames in ascending order.

        Args:
            coloured: False gives blanks of their size after the first: colours can take longer to make than to decode.

        Raises:
            Surprise: other frames come out than the order says.
        """
        need, at, key = set(wanted), 0, self.start
        matrix: list[int] = []
        if self.seeks:
            at, key = max(
                ((i, n) for i, n in enumerate(self.order[: wanted[0] + 1]) if self.packets[n].key), default=(at, key)
            )
        shown = self._play(key)
        if key != self.start:  # what is shown before a key frame and stored behind it lacks what it is made from
            shown = dropwhile(lambda frame: frame[0] != key, shown)
        for number, frame in shown:
            if self.order[at : at + 1] != [number]:
                raise Surprise("other frames than its index says")
            if at in need:
                matrix = matrix or _display_matrix(frame)  # a stream's, the same for all frames
                seen = coloured or at == wanted[0]
                pixels = self._pixels(frame) if seen else np.broadcast_to(BLANK, (frame.height, frame.width, 3))
                yield _upright(pixels, matrix)
            at += 1
            if at > wanted[-1]:
                return
        raise Surprise("fewer frames than its index says")

    def _pixels(self, frame: "VideoFrame") -> np.ndarray:
        """(H, W, 3) uint8 of a frame as it is stored."""
        alpha = _has_alpha(frame.format.name)
        pixels = self.converter.reformat(frame, format="rgba" if alpha else "rgb24").to_ndarray()
        return _on_white(pixels) if alpha else pixels

    def _open(self) -> None:
        import av
        from av.stream import Disposition

        self.container = av.open(str(self.source) if isinstance(self.source, Path) else _opened(self.source), "r")
        videos = self.container.streams.video
        films = [s for s in videos if not s.disposition & Disposition.attached_pic]
        if not films:
            raise ValueError(f"{self.source} holds no video{', only a cover' if videos else ''}")
        self.stream = films[0]
        self.decoder: Any = self.stream.codec_context
        libvpx = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(self.decoder.name, "")
        if self.stream.metadata.get("alpha_mode") == "1" and libvpx in av.codecs_available:
            self.decoder = av.VideoCodecContext.create(libvpx, "r")  # FFmpeg's own decoders leave transparency out
        self.decoder.thread_type = "NONE"  # the workers are the threads

    def _stored(self) -> Iterator["Packet"]:
        return (p for p in self.container.demux(self.stream) if p.size)

    def _order(self) -> list[int] | None:
        """Packets in the order of their times, or None where these do not tell which frames come out."""
        codec, first = self.stream.codec_context.name, self.packets[self.start].times[0] if self.packets else None
        shown = [n for n, p in enumerate(self.packets) if p.shown and n >= self.start]
        times = {n: t for n in shown if (t := self.packets[n].times[0]) is not None}
        if codec not in ONE_EACH or first is None or len(set(times.values())) < len(shown):
            return None
        if min(times.values(), default=first) < first:  # shown before the first key frame
            return None
        if codec == "mpeg4" and any(p.mark[1] < AS_BEFORE for p in self.packets):
            return None
        return sorted(shown, key=times.__getitem__)

    def _play(self, key: int) -> Iterator[tuple[int, "VideoFrame"]]:
        """Numbers and frames from a key frame on, or from somewhere before it, in the order that they are shown in."""
        for number, packet in self._numbered(key):
            if number >= self.start:
                packet.pts = packet.dts = number  # the decoder hands it on to the frame
                for frame in self.decoder.decode(packet):
                    yield -1 if frame.pts is None else frame.pts, frame
        for frame in self.decoder.decode(None):
            yield -1 if frame.pts is None else frame.pts, frame

    def _numbered(self, key: int) -> Iterator[tuple[int, "Packet"]]:
        """Packets from a key frame on or from one before it: from the first, where the container finds no other."""
        import av

        for time in self.packets[key].times if self.packets else ():
            if time is None:
                continue
            try:
                self.container.seek(time, stream=self.stream)
                self.decoder.flush_buffers()
                packets = self._stored()
                packet = next(packets)
            except (av.FFmpegError, StopIteration):
                continue
            number = self.marks.get((packet.pos, packet.size), key + 1)
            if number <= key:
                return enumerate(chain([packet], packets), number)
        self.container.close()
        self._open()
        return enumerate(self._stored())


class Gif:
    """A GIF, which PyAV takes for a single frame where no delays are stored."""

    def __init__(self, source: Source):
        from PIL import Image

        self.image = Image.open(source if isinstance(source, Path) else _opened(source))
        self.count: int = getattr(self.image, "n_frames", 1)

    def frames(self, wanted: Sequence[int], coloured: bool = True) -> Iterator[np.ndarray]:
        """Pixels (H, W, 3) uint8 of frames in ascending order; to decode one makes its colours."""
        for i in wanted:
            self.image.seek(i)
            yield _on_white(np.asarray(self.image.convert("RGBA")))


@cache
def _has_alpha(name: str) -> bool:
    from av import VideoFormat

    return any(c.is_alpha for c in VideoFormat(name).components)


def _display_matrix(frame: "VideoFrame") -> list[int]:
    """How a frame is to be turned, (a, b, u, c, d, v, …): x' = a x + c y, y' = b x + d y."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return [1, 0, 0, 0, 1] if matrix is None else np.frombuffer(matrix, np.int32).tolist()


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 → (H, W, 3)."""
    opacity = pixels[:, :, 3:].astype(np.uint16)
    return ((pixels[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _upright(pixels: np.ndarray, matrix: list[int]) -> np.ndarray:
    """(H, W, 3) → turned and mirrored as a display matrix says."""
    a, b, _, c, d = matrix[:5]
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b  # (W, H, 3)
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _stated_bytes(file: BinaryIO) -> int:
    """The bytes that a file should have by what its container says: boxes of MP4, chunks of AVI, Matroska's segment."""
    at, size, begun = 0, file.seek(0, io.SEEK_END), b""
    while at + 16 <= size:
        file.seek(at)
        head = file.read(16)
        begun = begun or head
        if begun[:4] == b"RIFF" == head[:4]:
            length = int.from_bytes(head[4:8], "little")
            at += 8 + length + length % 2 if 0 < length < 2**32 - 1 else size  # a stream's length is unknown
        elif begun[:4] == b"\x1a\x45\xdf\xa3" and head[:4] in (begun[:4], b"\x18\x53\x80\x67"):
            at += 4 + sum(_number(head[4:]))
        elif begun[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide") and head[4:8].isalnum():
            length = int.from_bytes(head[:4], "big")
            at += (int.from_bytes(head[8:], "big") if length == 1 else length) or size  # 0 is to the end
        else:
            break
    return at


def _number(data: bytes) -> tuple[int, int]:
    """Length and value of a number of Matroska's; an unknown one is 0."""
    length = 9 - data[0].bit_length()
    value = int.from_bytes(data[:length], "big") - (1 << 7 * length)
    return length, value if value + 1 < 1 << 7 * length else 0
