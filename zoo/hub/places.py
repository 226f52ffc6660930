"""Where weights lie: a record, a folder, the Hugging Face Hub, a publisher's server, a run. Each opens as a Source."""

import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from zoo import registry
from zoo.hub.files import (
    CONFIG,
    again,
    check_arch,
    check_made,
    hash_file,
    plain_tensors,
    read_checkpoint,
    read_config,
    read_tensors,
)
from zoo.hub.foreign import read_state, translate
from zoo.hub.make import TORCHS, Source
from zoo.recipe import newest_run
from zoo.registry import Weights


def is_place(name: str) -> bool:
    return name.startswith("hf://") or os.sep in name or "/" in name or name.endswith(".ckpt") or Path(name).is_dir()


def full_name(arch: str, weights: str) -> str:
    """What `weights` means beside an arch; a tag wins over a folder of the same name beside the user."""
    if f"{arch}.{weights}" in registry.records():
        return f"{arch}.{weights}"
    named = weights.partition(".")[0] in registry.archs()
    return weights if is_place(weights) or named else f"{arch}.{weights}"


def open_source(name: str, mmap: bool | None = None) -> Source:
    """The checkpoint of a name or place; `mmap` and errors as `zoo.load`'s."""
    path = Path(name)
    if name in registry.records() or not is_place(name):
        return _open_record(registry.weights_info(name), mmap)
    run = newest_run(path)
    if path.suffix == ".ckpt" or run is not None:
        return _open_lightning(path if run is None or path.suffix == ".ckpt" else _pick_checkpoint(run), bool(mmap))
    folder, fetch = hub_folder(name) if name.startswith("hf://") else (path, None)
    config = read_config(folder)
    expected = config["weights"]
    place = folder / expected["file"]

    def read() -> dict[str, Tensor]:
        file = fetch(expected["file"]) if fetch else place
        return read_tensors(file, expected["sha256"], expected["size"], mmap)

    return Source(config, place, read)


def _open_record(record: Weights, mmap: bool | None) -> Source:
    _say_terms(record.name)
    config = {"arch": record.arch, "args": record.args, "classes": list(record.classes), "name": record.name}
    if record.embedded:
        file = embedded_folder(record) / record.file
        return Source(config, file, lambda: read_tensors(file, record.sha256, record.size, mmap))
    return Source(config, Path(record.name), lambda: _fetch(record, mmap))


def _fetch(record: Weights, mmap: bool | None) -> dict[str, Tensor]:
    """The tensors of weights that are published elsewhere, under the names of this zoo."""
    repo = record.repo or ""
    file = download_url(record.url) if record.url else download(repo, record.file, record.revision)
    if not record.foreign:
        return read_tensors(file, record.sha256, record.size, mmap)
    _check_foreign(file, record)
    more = read_state(download(repo, record.extra_file, record.revision)) if record.extra_file else None
    return translate(read_state(file, mmap), record.arch, record.args, file, more=more).state


def _open_lightning(file: Path, mmap: bool) -> Source:
    checkpoint = read_checkpoint(file, mmap)
    if not isinstance(checkpoint, dict) or not {"zoo", "state_dict"} <= checkpoint.keys():
        raise ValueError(f"{file} was not written by a LightningModule of this zoo; `zoo convert` reads foreign files")
    try:
        check_made(checkpoint["zoo"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} does not say how its model is made ({error}); train it again") from error
    check_arch(checkpoint["zoo"], file)
    if "kept" in checkpoint:  # by a training that keeps its best weights beside the last ones
        kept = plain_tensors(checkpoint["kept"], file)
        return Source(checkpoint["zoo"], file, lambda: {TORCHS.sub("", k): v for k, v in kept.items()})
    tensors = plain_tensors(checkpoint["state_dict"], file)
    averaged = "average.module."  # a moving average is what was evaluated
    prefix = averaged if any(k.startswith(averaged) for k in tensors) else "model."
    state = {TORCHS.sub("", k.removeprefix(prefix)): v for k, v in tensors.items() if k.startswith(prefix)}
    return Source(checkpoint["zoo"], file, lambda: state)


def embedded_folder(record: Weights) -> Path:
    """Where weights that ship with the package lie."""
    return record.folder


@cache
def _say_terms(name: str) -> None:
    """Once per process, for weights that are not free to use."""
    record = registry.weights_info(name)
    if not record.permissive:
        warnings.warn(f"{record.name} is under {record.licence}; data: {record.data_terms}", stacklevel=4)


def hub_folder(name: str) -> tuple[Path, Callable[[str], Path]]:
    """The folder of a repository's config.json in the cache, and how to fetch its other files at the same commit."""
    repo, _, revision = name.removeprefix("hf://").partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"{name!r} is not hf://org/name or hf://org/name@revision")
    if revision and not all(part.strip(".") for part in revision.replace("\\", "/").split("/")):
        raise ValueError(f"{name!r} has no revision {revision!r}; give a branch, a tag or a commit")
    config = download(repo, CONFIG, revision or None)
    return config.parent, lambda file: download(repo, file, config.parent.name)


def download(repo: str, file: str, revision: str | None) -> Path:
    """A file of a Hub repository, cached; honours HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN."""
    import huggingface_hub as hf
    from huggingface_hub import errors

    at = f"{repo}@{revision}" if revision else repo
    try:
        return Path(hf.hf_hub_download(repo, file, revision=revision, library_name="latentzoo"))
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"hf://{repo} has no revision {revision!r}; leave it out for the newest") from error
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"hf://{at} {file} is not in the cache and the Hub cannot be reached (HF_HUB_OFFLINE="
            f"{os.environ.get('HF_HUB_OFFLINE', '0')}, HF_ENDPOINT={hf.constants.ENDPOINT}); load it once online, "
            "or take weights that ship with the package: `zoo ls --pretrained`"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"hf://{at} has no {file}, so it is no checkpoint of this zoo; see `zoo convert`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no repository or revision hf://{at}, or it is private and HF_TOKEN does not open it"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"hf://{at} is not a valid repository name: {error}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"could not get {file} of hf://{at}: {error}; try again, what was fetched is kept"
        ) from error


def download_url(url: str) -> Path:
    """A file from a publisher's own server, kept where torch.hub keeps such files (TORCH_HOME)."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except OSError as error:
        raise ConnectionError(
            f"{url} is not in {path.parent} and could not be downloaded ({error}); connect once, or put the file there"
        ) from error
    return path


def _check_foreign(file: Path, record: Weights) -> None:
    """Hash somebody else's file against what its publisher states, as far as that goes, and say where it does not."""
    if record.sha256:
        digest, stated = hash_file(file), record.sha256
    elif record.md5:
        digest, stated = hash_file(file, "md5"), record.md5
    else:
        warnings.warn(
            f"the publisher of {record.name} states no hash; this file's sha256 is {hash_file(file)}, compare it with "
            "a colleague's",
            stacklevel=5,
        )
        return
    if not digest.startswith(stated):
        raise ValueError(f"{file} has hash {digest[:12]}…, its publisher states {stated[:12]}…; {again(file)}")


def _pick_checkpoint(run: Path) -> Path:
    """The best checkpoint of a run, else its last."""
    files = sorted((run / "checkpoints").glob("best*.ckpt")) or sorted((run / "checkpoints").glob("last*.ckpt"))
    if not files:
        raise FileNotFoundError(
            f"{run}/checkpoints holds neither best*.ckpt nor last.ckpt, the run saved nothing yet; begin it again: "
            f"zoo fit --resume {run}"
        )
    return files[-1]
