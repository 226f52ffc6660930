"""The files of a checkpoint: read without trust, hashed, and written aside before they take their place."""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from zoo import registry
from zoo.nn.memory import memory

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
PICTURE = "picture.png"  # of a release, what `zoo show` draws of it
CONFIG_BYTES = 2**24  # a thousand class names are 20 kB
IN_MEMORY = 2**30  # bytes of a safetensors file up to which it is read; a larger one is mapped
DTYPES = {
    **{"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2},
    **{"F8_E4M3": torch.float8_e4m3fn, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16},
    **{"BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32},
    **{"C64": torch.complex64, "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64},
}  # safetensors' names, in the order in which its files hold them, the last first
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk says


def read_tensors(file: Path, sha256: str, size: int, mmap: bool | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, hashed as they are read; nothing is returned unless the hash is right.

    Args:
        mmap: as in `read_safetensors`.

    Raises:
        ValueError: another size or hash, no safetensors.
        FileNotFoundError: no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; the checkpoint is a folder of {CONFIG}, {WEIGHTS} and {CARD}")
    with open(file, "rb") as f:
        head = f.read(2)
    if head in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise ValueError(
            f"{file} is a pickle, not safetensors; it was not opened. `zoo convert` reads such files safely"
        )
    held = file.stat().st_size
    if held != size:
        raise ValueError(f"{file} has {held:,} bytes of {size:,}: it is cut or changed; {again(file)}")
    digest = hashlib.sha256()
    try:
        state = read_safetensors(file, mmap, digest)
    except ValueError as error:
        raise ValueError(f"{error}; {again(file)}") from error
    if digest.hexdigest() != sha256:
        raise ValueError(f"{file} has sha256 {digest.hexdigest()[:12]}…, expected {sha256[:12]}…; {again(file)}")
    return state


def read_safetensors(file: Path, mmap: bool | None = None, digest: Any = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        mmap: True maps the file: it costs no memory until a tensor is used, and what is written into the file later
            changes the tensors, or ends the process where the file gets shorter. False reads it. None maps what is
            larger than `IN_MEMORY`.
        digest: of hashlib; it is given every byte, in order.

    Raises:
        ValueError: it is none, or holds what torch has no type for.
    """
    try:
        with ThreadPoolExecutor(1) as pool, safe_open(file, "pt") as f:
            if mmap is None:
                mmap = file.stat().st_size > IN_MEMORY
            if not mmap:
                return _read_in_order(file, f, lambda part: pool.submit(digest.update, part) if digest else None)
            hashed = pool.submit(_hash_into, digest, file) if digest else None
            state = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118, not a dict
            if hashed:
                hashed.result()
            return state
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {file}") from None
    except Exception as error:  # the library has several of its own, and torch's
        raise ValueError(f"{file} is not safetensors ({str(error).partition(chr(10))[0]})") from error


def _read_in_order(file: Path, opened: Any, read: Callable[[Any], object]) -> dict[str, Tensor]:
    """Each tensor into memory of its own; `read` is called with the bytes of the file, in order.

    `opened` is the library's view of the file: it has checked that the tensors fill the file without a gap.
    """
    state = {}
    with open(file, "rb") as f:
        length = f.read(8)
        header = f.read(int.from_bytes(length, "little"))
        read(length + header)
        for name in opened.offset_keys():
            held = opened.get_slice(name)
            if held.get_dtype() not in DTYPES:
                raise ValueError(f"torch has no {held.get_dtype()}")
            tensor = state[name] = torch.empty(held.get_shape(), dtype=DTYPES[held.get_dtype()])
            if tensor.numel():
                part = memory(tensor)
                if f.readinto(part) != len(part):
                    raise ValueError("it got shorter while it was read")
                read(part)
    return state


def write_safetensors(state: Mapping[str, Tensor], file: Path) -> None:
    """Tensors as a safetensors file, to the byte the one that the library writes, which needs numpy for it.

    Raises:
        ValueError: a tensor of a dtype that the format lacks.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    if strange := [k for k, v in state.items() if v.dtype not in names]:
        raise ValueError(f"safetensors has no {state[strange[0]].dtype}, which {strange[0]} is; cast it")
    largest_first = list(reversed(DTYPES.values()))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end, ordered = 0, sorted(state, key=lambda k: (largest_first.index(state[k].dtype), k))
    for k in ordered:
        begin, end = end, end + state[k].numel() * state[k].element_size()
        shape = list(state[k].shape)
        header[k] = {"dtype": names[state[k].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    with open(file, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for k in ordered:
            f.write(memory(state[k].detach().cpu().contiguous()))


def plain_tensors(state: Any, source: object) -> dict[str, Tensor]:
    """The tensors of a state dict out of a torch file.

    Raises:
        ValueError: no state dict, or a tensor that is not simply its own memory.
    """
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        raise ValueError(f"{source} holds no state dict; give one, names to tensors")
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    for name, v in tensors.items():
        whole = v.layout == torch.strided and v.device.type == "cpu" and not v.is_quantized
        if not whole or v.numel() * v.element_size() > v.untyped_storage().nbytes():
            raise ValueError(f"{source}: {name} {tuple(v.shape)} is more than the file holds of it; save it contiguous")
    return tensors


def again(file: Path) -> str:
    """What to do about a damaged file. Only what a cache holds is to be deleted, and no more than the file."""
    if "snapshots" in file.parts or file.is_relative_to(torch.hub.get_dir()):
        return f"delete {file.resolve()} and get it again"
    return f"get {file.parent} again, from where it came"


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder, checked."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; give a run (`zoo runs` lists them), a checkpoint folder, hf://org/name, or a name "
            "that `zoo ls --pretrained` shows"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG}, so it is no checkpoint; one is made by zoo export RUN -o FOLDER, and of "
            "somebody else's file by zoo convert FILE ARCH -o FOLDER"
        )
    try:
        config: dict[str, Any] = read_json(path)
        check_made(config)
        file, sha256, size = (config["weights"][key] for key in ("file", "sha256", "size"))
        if not (isinstance(file, str) and isinstance(sha256, str) and isinstance(size, int)):
            raise TypeError("weights.file, sha256 or size is of the wrong type")
    except (ValueError, KeyError, TypeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is not a checkpoint's config ({said}); it needs arch, args, and weights with file, sha256, size"
        ) from error
    check_arch(config, path)
    if file != os.path.basename(file) or file in ("", ".", "..") or "\\" in file:
        raise ValueError(f"{path} names {file!r}, outside its folder; a checkpoint holds its own weights")
    return config


def read_json(path: Path) -> Any:
    """What a small JSON file says.

    Raises:
        ValueError: it is not JSON, too deep or too long.
    """
    if path.stat().st_size > CONFIG_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, a config up to {CONFIG_BYTES:,}")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def check_arch(config: dict[str, Any], source: object) -> None:
    """Raise a ValueError where no family that is installed has the arch of a config."""
    if config["arch"] not in registry.archs():
        brought, near = config.get("distribution"), registry.suggest(config["arch"], registry.archs())
        mend = f"install {brought}, which brings it" if brought else "no family that is installed has it"
        raise ValueError(f"{source}: no arch {config['arch']!r}{'' if brought else near}; {mend}")


def check_made(config: Any) -> None:
    """That a config says how to make a model; KeyError or TypeError otherwise."""
    if not (isinstance(config, dict) and isinstance(config["arch"], str) and isinstance(config["args"], dict)):
        raise TypeError("arch or args is of the wrong type")
    classes = config.get("classes") or []
    if not (isinstance(classes, list | tuple) and all(isinstance(c, str) for c in [*classes, *config["args"]])):
        raise TypeError("classes are no list of names")
    if not all(isinstance(config.get(key) or "", str) for key in ("name", "parent", "distribution")):
        raise TypeError("name, parent or distribution is of the wrong type")
    golden = config.get("golden", [])
    if not (isinstance(golden, list) and all(isinstance(number, int | float) for number in golden)):
        raise TypeError("golden is no list of numbers")
    if not isinstance(config.get("crop_pct", 1.0), int | float):
        raise TypeError("crop_pct is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are each there once; readers differ in which of two they take."""
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key is there twice")
    return unique


# Old versions of Lightning file what a callback remembers under its class: an empty one of that name stands in for it.
CALLBACK = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})


class _Dtype:
    """Stands in for numpy's dtype in a pickle: what a number is made of, and nothing that runs."""

    def __init__(self, code: str, *_: object):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(dtype: _Dtype, data: bytes) -> int | float | bool:
    """A numpy scalar of a pickle, as a Python number."""
    if type(dtype) is not _Dtype or dtype.code not in NUMBERS or dtype.order not in ("<", ">", "=", "|"):
        raise ValueError("a numpy scalar that is no number")
    number: int | float | bool = struct.unpack(dtype.order.replace("|", "=") + NUMBERS[dtype.code], data)[0]
    return number


# VideoMAE's learning rates are numpy's. Versions 1 and 2 file their scalars under two names.
NUMBERS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"}
NUMBERS |= {"u1": "B", "u2": "H", "u4": "I", "u8": "Q"}  # numpy's code -> struct's
PLAIN: list[Any] = [
    argparse.Namespace,
    CALLBACK,
    (_Dtype, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def read_pickle(file: Path, mmap: bool = False) -> Any:
    """A torch file of tensors, numbers and plain containers, argparse's Namespace among them: nothing in it can run.

    Raises:
        ValueError: it is no torch file, is cut, or asks for something to be run.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    try:
        if zipped := zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                _refuse_compressed(archive)
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap and zipped)
    except Exception as error:
        raise ValueError(f"{file} is not a file of plain tensors ({_unpickled(error)}); it was not loaded") from error


def _unpickled(error: Exception) -> str:
    """Why torch did not load a file; its own words come with advice that is not ours, in several lines."""
    if isinstance(error, KeyError):  # of bytes that are no pickle
        return "torch did not write it, or it is damaged"
    said = str(error) or type(error).__name__
    if asked := re.search(r"GLOBAL ([\w.]+) was not an allowed global", said):
        return f"it asks for {asked[1]}; where you trust it, load it with torch and save its state dict alone"
    return said.partition("\n")[0].partition("In PyTorch 2.6")[0].partition(", to do so you have")[0].strip()


def read_checkpoint(file: Path, mmap: bool = False) -> dict[str, Any]:
    """A Lightning checkpoint of this zoo, whole: torch keeps a sum of each tensor's bytes and never looks at it again.

    Args:
        mmap: leave the tensors in the file, as `read_safetensors` says it.

    Raises:
        ValueError: as `read_pickle`, or a byte in it changed since it was written.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    try:
        with zipfile.ZipFile(file) as archive:
            _refuse_compressed(archive)
            changed = archive.testzip()
    except Exception as error:  # whatever a changed byte makes zipfile stumble over
        raise ValueError(f"{file} is damaged or no checkpoint ({error})") from error
    if changed is not None:
        raise ValueError(f"{file} is damaged: {changed} is not what was written")
    checkpoint: dict[str, Any] = read_pickle(file, mmap)
    return checkpoint


def _refuse_compressed(archive: zipfile.ZipFile) -> None:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which torch never does: it may unfold to any size")


@contextlib.contextmanager
def write_aside(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Give out temporary names in `folder`; rename them all, in that order, once everything is written and synced.

    Raises:
        OSError: the disk is full; what was there before is untouched.
    """
    names: list[str] = []

    def aside(name: str) -> Path:
        path = folder / f".{name}.{os.getpid()}.part"
        if name not in names:
            path.unlink(missing_ok=True)  # a link of that name would lead out of the folder
            path.open("xb").close()
            names.append(name)
        return path

    try:
        yield aside
        for name in names:
            with open(aside(name), "rb+") as f:  # Windows syncs nothing that may not be written
                os.fsync(f.fileno())
        for name in names:
            replace(aside(name), folder / name)
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = folder / names[0] if len(names) == 1 else folder
        said = error.strerror or error  # else it names the file beside, which nobody asked for
        raise OSError(f"cannot write {place}: {said}; nothing in it was changed, save to another folder") from error
    finally:
        for name in names:
            aside(name).unlink(missing_ok=True)


def replace(new: Path, old: Path) -> None:
    """Rename a file over another.

    Raises:
        OSError: the other one is in use, where the system keeps what is open or mapped.
    """
    try:
        os.replace(new, old)
    except PermissionError as error:
        raise OSError(
            f"cannot replace {old}, which is in use or somebody else's ({error.strerror}); close what reads it, load "
            "models of it with zoo.load(PLACE, mmap=False), or write to another place"
        ) from error


def hash_file(file: Path, kind: str = "sha256") -> str:
    """A file's hash, in hex."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, kind).hexdigest()


def _hash_into(digest: Any, file: Path) -> None:
    with open(file, "rb") as f:
        hashlib.file_digest(f, lambda: digest)
