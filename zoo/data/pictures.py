"""One picture, from a file, encoded bytes or an array, as 8-bit pixels that lie as a viewer shows them.

Training, evaluation, figures, shards and latents all read through `decode`: upright, whichever of EXIF's eight
orientations the camera noted; what is transparent as if on white paper; more than 8 bits scaled by a fixed range and
never by what one picture holds. Pillow is imported by the first picture.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ValueRange = tuple[float, float]

SIXTEEN_BITS = (0.0, 65535.0)
HEIF = (".heic", ".heif", ".hif")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # at byte 8 of such a file
WANTS_HEIF = "pip install 'latentzoo[heif]'"
NOT_DRAWN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow knows them, other programs have to draw them
ORIENTATION = 0x0112  # EXIF's tag: 1 is upright, 2 to 8 are the turns of `_turns`
TURNED = (5, 6, 7, 8)  # those that exchange width and height
AGAIN = "get it again"  # what to do about a file that is damaged


class Found(bytes):
    """An encoded picture that knows where it was found: `str` is "row 5 of FILE (path)"."""

    def __new__(cls, data: bytes, place: str) -> "Found":
        self = super().__new__(cls, data)
        self.place = place
        return self

    place: str

    def __str__(self) -> str:
        return self.place

    def __reduce__(self) -> tuple[type, tuple[bytes, str]]:
        return Found, (bytes(self), self.place)


class Damaged(ValueError):
    """A file or row that cannot be decoded.

    Args:
        said: which one, and what is wrong with it.
        cure: what to do about it; without, `said` is the whole message, as of an error that comes from a worker.
        what: such are, "videos".
    """

    def __init__(self, said: str, cure: str = "", what: str = "pictures"):
        super().__init__(f"{said}; {cure}, or leave such {what} out with bad='skip'" if cure else said)
        self.reason = said


def reason(error: Exception) -> str:
    """Why a sample is left out: what an error says, without what to do about it."""
    return error.reason if isinstance(error, Damaged) else str(error)


def decode(item: Any, channels: int, source: str, value_range: ValueRange | None = None) -> np.ndarray:
    """A file, encoded bytes, a PIL image or an array (H, W[, C]) as uint8 pixels (H, W, C), upright and opaque.

    Args:
        channels: 1 grey, 3 RGB.
        source: where bytes come from, for messages; a path or a Found names itself.
        value_range: which values of a picture with more than 8 bits become black and white. None takes 16 bits from 0
            to 65,535.

    Raises:
        ValueError: the file is damaged or no picture, or it holds 32 bits or floats and there is no value_range.
        FileNotFoundError: no such file.
    """
    with opened(item, source) as image:
        image.load()
        form, image = image.format, upright(image)
        deep = image.mode.startswith(("I", "F"))
        if not deep:
            image = _on_white(image) if image.has_transparency_data else image
            image = image.convert("L" if channels == 1 else "RGB")
    if deep:
        pixels = _scaled(image, form, _name(item, source), value_range)  # (H, W)
        return np.repeat(pixels[:, :, None], channels, 2)  # (H, W, C)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@contextlib.contextmanager
def opened(item: Any, source: str) -> Iterator[Any]:
    """Pillow's Image of an item, its header read and its pixels not yet; closed afterwards, where it was opened here.

    Raises:
        ValueError: it is damaged or no picture, noticed now or by who reads the pixels; it is named.
    """
    pillow = _pillow()
    if isinstance(item, np.ndarray):
        try:
            image = pillow.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"an array of {item.dtype} {item.shape} of {source} is no picture; expected uint8 (H, W), (H, W, 3) or "
                "(H, W, 4)"
            ) from error
        yield image
        return
    if is_picture(item):
        with naming(_name(item, source)):
            yield item
        return
    with naming(_name(item, source)):
        try:
            image = pillow.open(io.BytesIO(item) if isinstance(item, bytes) else item)
        except pillow.UnidentifiedImageError as error:
            raise ValueError(_unknown(item)) from error
        with image:
            yield image


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Whatever Pillow makes of a damaged file, as a ValueError that says which."""
    pillow = _pillow()
    try:
        yield
    except FileNotFoundError:
        raise
    except pillow.DecompressionBombError as error:
        raise Damaged(f"{what} cannot be decoded ({str(error).rstrip('.')})", "make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Damaged(f"{what} cannot be decoded ({error})", AGAIN) from error


def upright(image: Any) -> Any:
    """An Image as its EXIF tag says that it is to be looked at."""
    turn = _turns().get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def upright_size(image: Any) -> tuple[int, int]:
    """Height and width in px of an Image once it is upright."""
    width, height = image.size
    return (width, height) if _orientation(image) in TURNED and image.format != "TIFF" else (height, width)


def is_picture(item: Any) -> bool:
    """Whether an item is a Pillow Image."""
    return isinstance(item, _pillow().Image)


def is_grey(image: Any) -> bool:
    """Whether the mode of an Image has no colours."""
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of the pictures that the installed Pillow decodes, ".png", in lower case."""
    pillow = _pillow()
    known = pillow.registered_extensions()
    return frozenset(s for s, form in known.items() if form in pillow.OPEN and form not in NOT_DRAWN)


def check_range(value_range: ValueRange | None) -> None:
    """Refuse a range without an inside.

    Raises:
        ValueError: (low, high) with low not below high, or not finite.
    """
    if value_range is not None and not (len(value_range) == 2 and -np.inf < value_range[0] < value_range[1] < np.inf):
        raise ValueError(f"value_range={value_range}, allowed (low, high) with low < high, such as (0, 4095)")


@cache
def _pillow() -> ModuleType:
    """Pillow's Image module, with HEIF where pillow-heif is installed."""
    from PIL import Image

    # A picture of a hundred megapixels is read; of twice Pillow's limit it is refused, by name, here.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image


@cache
def _turns() -> dict[Any, Any]:
    """What makes each of EXIF's orientations upright."""
    turn = _pillow().Transpose
    return {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }


def _orientation(image: Any) -> Any:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # of a damaged tag, whose picture may well be whole; Pillow's readers raise all sorts
        return 1


def _on_white(image: Any) -> Any:
    """An Image with transparency laid on white, RGB."""
    pillow = _pillow()
    image = image.convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")


def _scaled(image: Any, form: str | None, name: str, value_range: ValueRange | None) -> np.ndarray:
    """More than 8 bits as uint8 (H, W), value_range as 0 to 255."""
    # A PNG or a PGM has at most 16 bits, in whatever mode Pillow holds them.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM"))
    if value_range is None and not sixteen:
        held = "floats" if image.mode == "F" else "32-bit numbers"
        raise ValueError(
            f"{name} holds {held}, which can mean anything; say which are black and white, value_range=(low, high)"
        )
    values = np.asarray(image)  # (H, W)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError(f"{name} holds values that are no numbers (NaN); write it anew without")
    low, high = value_range or SIXTEEN_BITS
    scaled = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    pixels = scaled.clip(0, 255).astype(np.uint8)  # (H, W)
    if isinstance(hidden := image.info.get("transparency"), int):  # of a PNG: the grey that is transparent
        pixels[values == hidden] = 255
    return pixels


def _unknown(item: Any) -> str:
    """Why Pillow knows nothing of a file."""
    if isinstance(item, bytes):
        head = item[:12]
    else:
        with open(item, "rb") as file:
            head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        return f"it is HEIF, which needs {WANTS_HEIF}"
    return "no kind of picture that Pillow knows" if head else "it is empty"


def _name(item: Any, source: str) -> str:
    return str(item) if isinstance(item, str | Path | Found) else f"an image of {source}"
