"""Files from publishers: fetched once, and verified by what their record states, else by what came the first time.

A data set of the Hub is many files, and pinned as one: by the list of them and the commit that it was taken at.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import torch

from zoo import registry
from zoo.hub import lock
from zoo.hub.files import FULL, again, hash_file, write_aside
from zoo.hub.lock import Pin
from zoo.registry import cache_folder

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

WHOLE = 64  # hex digits of a sha256; some publishers state its first ones
DATA = "datasets/"  # what the Hub's addresses of data sets begin with
PATIENCE = 60  # seconds that a server may take to answer


@dataclass(frozen=True)
class Published:
    """A file of a Hub repository, or on a publisher's own server."""

    file: str
    repo: str = ""
    revision: str | None = None
    url: str | None = None

    @property
    def address(self) -> str:
        return self.url or f"hf://{self.repo}{f'@{self.revision}' if self.revision else ''}/{self.file}"

    @property
    def packed(self) -> Path:
        """Where it lies in a bundle: its address as a path that every file system takes."""
        return packed_at(self.address)


def packed_at(address: str) -> Path:
    """Where the file of an address lies in a bundle."""
    return Path("weights", *(part for part in re.split(r"[^\w.@%+-]+", address) if part.strip(".")))


class Came(NamedTuple):
    """A file that was fetched and verified."""

    file: Published
    owner: str  # the record that needs it
    path: Path
    pin: Pin
    said: str  # whose hash it has


class Answer(NamedTuple):
    """What a publisher says of a file without sending it."""

    size: int | None  # bytes
    sha256: str = ""  # of a large file on the Hub
    commit: str = ""  # of the Hub's repository


@dataclass
class Fetching:
    """How files are fetched, and which ones models were made of."""

    lock: Path | None = None
    update: bool = False
    offline: bool = False
    came: list[Came] = field(default_factory=list)
    shipped: dict[str, registry.Weights] = field(default_factory=dict)


_FETCHING: ContextVar[Fetching | None] = ContextVar("_FETCHING", default=None)


@contextlib.contextmanager
def fetching(lock: Path | None = None, update: bool = False, offline: bool = False) -> Iterator[Fetching]:
    """Inside, what is fetched is listed, and which weights that ship are read.

    Args:
        lock: where pins are kept instead of in `$ZOO_LOCK` or the cache; one that cannot be written is an error.
        update: pins are made anew, of what publishers have now.
        offline: nothing is fetched that is not here.
    """
    how = Fetching(lock, update, offline)
    token = _FETCHING.set(how)
    try:
        yield how
    finally:
        _FETCHING.reset(token)


def note_shipped(record: registry.Weights) -> None:
    """List weights that ship among what is read."""
    if how := _FETCHING.get():
        how.shipped[record.name] = record


def fetch(file: Published, owner: str, sha256: str = "", md5: str = "") -> Path:
    """A publisher's file, hashed. Without a whole sha256 it is pinned by the first one that came.

    Args:
        owner: the record that needs it.
        sha256, md5: hashes that its publisher states, or their first digits.

    Raises:
        ValueError: it has another hash; a lock file is damaged.
        FileNotFoundError: the publisher, or a bundle, has no such file.
        ConnectionError: it is not here and cannot be had.
    """
    how = _FETCHING.get() or Fetching()
    found = None if how.update else lock.find(file.address, how.lock)
    path = _locate(file, owner, found, how)
    digest = hash_file(path)
    _check(path, digest, sha256)
    if len(sha256) == WHOLE:
        pin, said = Pin(digest, path.stat().st_size, _commit(file, path)), "stated by its record"
    else:
        if found and found[0].sha256 != digest:
            _check_md5(path, md5)  # its publisher's word on which of the two it is
            raise _changed(path, owner, digest, *found)
        pin, said = _pin(file, owner, path, digest, md5, found, how)
    how.came.append(Came(file, owner, path, pin, said))
    return path


def _pin(
    file: Published,
    owner: str,
    path: Path,
    digest: str,
    md5: str,
    found: tuple[Pin, Path] | None,
    how: Fetching,
) -> tuple[Pin, str]:
    """The pin of a file, kept where new ones go, and what is to be said of it."""
    target = how.lock or lock.current()
    if found and found[1] == target:
        return found[0], "as pinned"
    pin = replace(found[0], packed=False) if found else _first(file, path, digest, md5)
    try:
        kept, before = lock.keep(target, file.address, pin, how.update)
    except (OSError, NotImplementedError) as error:
        reason = f"{target} cannot be written ({getattr(error, 'strerror', None) or error})"
        if how.lock is not None:
            raise OSError(f"{reason}; give another -o FILE") from error
        warnings.warn(
            f"{owner} is not pinned, so a change of its file would not be noticed: {reason}; set ZOO_LOCK to a file "
            "that can be",
            stacklevel=2,
        )
        return pin, "not pinned"
    if kept.sha256 != digest:
        raise _changed(path, owner, digest, kept, target)
    if found:
        return kept, f"as pinned in {found[1]}"
    if how.lock is None:
        warnings.warn(
            f"the publisher of {owner} states no whole sha256: {digest} of {path.name} is pinned in {target}; compare "
            "it with a colleague's",
            stacklevel=2,
        )
    if before is None:
        return kept, "pinned now"
    return kept, "as pinned" if before.sha256 == digest else f"pinned now, was sha256 {before.sha256}"


def _first(file: Published, path: Path, digest: str, md5: str) -> Pin:
    """The pin of a file that nobody has pinned yet, checked against what its publisher says of it."""
    _check_md5(path, md5)
    blob = path.resolve()
    if blob.parent.name == "blobs" and len(blob.name) == WHOLE:  # the Hub's cache names large files by their sha256
        _check(path, digest, blob.name)
    return Pin(digest, path.stat().st_size, _commit(file, path))


def _changed(path: Path, owner: str, digest: str, pin: Pin, where: Path) -> ValueError:
    return ValueError(
        f"{path} of {owner} has sha256 {digest[:12]}…, {where} pins {pin.sha256[:12]}…: it is damaged, or its "
        f"publisher has changed it; {again(path)}, or to take it as it is now: {_unpin(owner)}"
    )


def _unpin(owner: str) -> str:
    update = f"zoo lock {owner} --update, or " if owner in registry.records() else ""  # timm's are none
    return f"{update}remove its line from the lock"


def _check(path: Path, digest: str, stated: str) -> None:
    """Raise where a hash does not begin as its publisher states it."""
    if not digest.startswith(stated):
        raise ValueError(f"{path} has hash {digest[:12]}…, its publisher states {stated[:12]}…; {again(path)}")


def _check_md5(path: Path, md5: str) -> None:
    if md5:
        _check(path, hash_file(path, "md5"), md5)


def _commit(file: Published, path: Path) -> str:
    """The commit in whose folder of the Hub's cache a file lies; "" elsewhere."""
    parts = path.parts[: -len(PurePosixPath(file.file).parts)]
    return parts[-1] if file.url is None and parts[-2:-1] == ("snapshots",) else ""


def _locate(file: Published, owner: str, found: tuple[Pin, Path] | None, how: Fetching) -> Path:
    """Where a file lies: in a bundle, else where the Hub's client or torch.hub keeps it, fetched if need be."""
    packed = None if how.update else lock.bundle(file.address, how.lock)
    if packed is not None:
        if not (packed / file.packed).is_file():
            raise FileNotFoundError(
                f"the bundle {packed} lacks {file.packed.as_posix()}, which {owner} needs; copy it whole, or make it "
                "again where there is a network: zoo bundle NAMES -o FOLDER"
            )
        return packed / file.packed
    if file.url is not None:
        return download_url(file.url, again=how.update, offline=how.offline)
    revision = found[0].commit if found and found[0].commit else file.revision
    try:
        return download(file.repo, file.file, revision, how.update, how.offline)
    except FileNotFoundError as error:
        if not found or revision == file.revision:
            raise
        raise FileNotFoundError(
            f"{owner}: hf://{file.repo} has no {file.file} at commit {revision} any more, which {found[1]} pins with "
            f"sha256 {found[0].sha256[:12]}…; to take what there is now: {_unpin(owner)}"
        ) from error


def is_here(file: Published) -> bool:
    """Whether a file can be had without a network. What a bundle should hold counts: to lack it is a fault."""
    if lock.bundle(file.address) is not None:
        return True
    if file.url is not None:
        return _kept(file.url).is_file()
    import huggingface_hub as hf

    found = lock.find(file.address)
    revision = found[0].commit if found and found[0].commit else file.revision
    return isinstance(hf.try_to_load_from_cache(file.repo, file.file, revision=revision), str)


class Listed(NamedTuple):
    """The files that a data set of the Hub holds at a commit."""

    commit: str
    files: tuple[str, ...]


def list_files(repo: str, revision: str | None = None) -> Listed:
    """The files of a data set of the Hub, as they were when they were first asked for: the list is kept and pinned.

    So a run that goes on later reads what it has begun with, and nothing is asked of the network again.

    Args:
        repo: "datasets/org/name".
        revision: a branch, a tag or a commit; None is the newest commit.

    Raises:
        FileNotFoundError: no such repository or revision, or it is closed to this user.
        ConnectionError: it was not listed before, and the Hub cannot be reached.
        ValueError: a lock file is damaged; the commit holds other files than were pinned.
    """
    address = f"hf://{repo}{f'@{revision}' if revision else ''}"
    found = lock.find(address)
    if found is not None:
        file = _list_file(found[0])
        if file.is_file() and hash_file(file) == found[0].sha256:
            held = json.loads(file.read_text(encoding="utf-8"))
            return Listed(held["commit"], tuple(held["files"]))
    listed = _ask_files(repo, found[0].commit or revision if found else revision)
    text = json.dumps(listed._asdict(), indent=0).encode()
    pin = Pin(hashlib.sha256(text).hexdigest(), len(text), listed.commit)
    if found is not None and found[0].sha256 != pin.sha256:
        raise ValueError(
            f"{address} is pinned in {found[1]} with other files than the Hub lists at commit {pin.commit[:12]}; to "
            "take what there is now, remove its line from the lock"
        )
    target = lock.current()
    try:
        file = _list_file(pin)
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(file.parent) as aside:
            aside(file.name).write_bytes(text)
        kept = found[0] if found else lock.keep(target, address, pin)[0]
    except (OSError, NotImplementedError) as error:
        warnings.warn(
            f"{address} is not pinned, so a change of it would not be noticed: {target} or {cache_folder()} cannot be "
            f"written ({getattr(error, 'strerror', None) or error}); set ZOO_LOCK and ZOO_CACHE to places that can be",
            stacklevel=2,
        )
        return listed
    if found is not None or revision == pin.commit:
        return listed
    if kept != pin:  # another process was first, and the repository changed between the two
        return list_files(repo, revision)
    warnings.warn(
        f"{address} is read at commit {pin.commit[:12]} from now on, as pinned in {target}; remove its line there to "
        "read what the Hub holds then",
        stacklevel=2,
    )
    return listed


def _list_file(pin: Pin) -> Path:
    return cache_folder() / "lists" / f"{pin.sha256}.json"


def _ask_files(repo: str, revision: str | None) -> Listed:
    import huggingface_hub as hf

    with _telling(repo, revision):
        try:
            info = hf.HfApi(library_name="latentzoo").dataset_info(repo.removeprefix(DATA), revision=revision)
        except (OSError, ValueError):
            raise
        except Exception as error:  # as in `_reach`
            raise ConnectionError(f"{error}") from error
    return Listed(info.sha or "", tuple(sorted(file.rfilename for file in info.siblings or ())))


def download(repo: str, file: str, revision: str | None, again: bool = False, offline: bool = False) -> Path:
    """A file of a Hub repository, cached; honours HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN.

    Args:
        repo: "org/name", or "datasets/org/name".
        again: only as the Hub has it now. Else the client takes what its cache holds where the Hub cannot be reached.
        offline: only one that is there.
    """
    import huggingface_hub as hf

    kind, name = _kind(repo)
    with _telling(repo, revision, file):
        if again:
            _reach(hf.hf_hub_url(name, file, repo_type=kind, revision=revision))
        path = hf.hf_hub_download(
            name, file, repo_type=kind, revision=revision, library_name="latentzoo", local_files_only=offline
        )
    return Path(path)


def _kind(repo: str) -> tuple[str, str]:
    """A repository's type and name, as the client wants them."""
    return ("dataset", repo.removeprefix(DATA)) if repo.startswith(DATA) else ("model", repo)


@contextlib.contextmanager
def _telling(repo: str, revision: str | None, file: str = "") -> Iterator[None]:
    """What the client raises over a repository or a file of it, in words that say what to do."""
    import huggingface_hub as hf
    from huggingface_hub import errors

    at = f"{repo}@{revision}" if revision else repo
    data = repo.startswith(DATA)
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"hf://{repo} has no revision {revision!r}; leave it out for the newest") from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(at, file, data) from error
    except errors.EntryNotFoundError as error:
        cure = "it is damaged there" if data else "so it is no checkpoint of this zoo; see `zoo convert`"
        raise FileNotFoundError(f"hf://{at} has no {file}, {cure}") from error
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"hf://{at} is open to who has accepted its terms; do so at {hf.constants.ENDPOINT}/{repo}, and set "
            "HF_TOKEN to a token of that account"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no repository or revision hf://{at}, or it is private and HF_TOKEN does not open it"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"hf://{at} is not a valid repository name: {error}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        if not file:
            raise _unreachable(at, file, data, error) from error
        if isinstance(error, PermissionError | NotADirectoryError) or error.errno in FULL:
            raise OSError(
                f"the cache {hf.constants.HF_HUB_CACHE} cannot be written: {error.strerror}; set HF_HOME to a folder "
                "that can be, or make room there"
            ) from error
        raise ConnectionError(
            f"could not get {file} of hf://{at}: {error}; try again, what was fetched is kept"
        ) from error


def _unreachable(at: str, file: str, data: bool, error: Exception | None = None) -> ConnectionError:
    import huggingface_hub as hf

    other = "give a folder" if data else "take weights that ship with the package: `zoo ls --pretrained`"
    why = f"{error}; " if error else ""
    return ConnectionError(
        f"hf://{at}{f' {file}' if file else ''} is not in the cache and the Hub cannot be reached ({why}HF_HUB_OFFLINE="
        f"{os.environ.get('HF_HUB_OFFLINE', '0')}, HF_ENDPOINT={hf.constants.ENDPOINT}); load it once online, or "
        f"{other}"
    )


def ask(file: Published) -> Answer:
    """What its publisher says of a file, by a request for its headers: nothing is fetched.

    Raises:
        FileNotFoundError: the publisher has no such file, or shows it to others only.
        ConnectionError: the publisher cannot be reached, or answers with another error.
    """
    if file.url is not None:
        return _ask_server(file.url)
    import huggingface_hub as hf
    from huggingface_hub import errors

    try:
        said = _reach(hf.hf_hub_url(file.repo, file.file, revision=file.revision))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise FileNotFoundError(f"{file.address} is not there, or HF_TOKEN does not open it") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ConnectionError(f"{file.address} cannot be asked for: {error}") from error
    etag = said.etag or ""
    return Answer(said.size, etag if len(etag) == WHOLE else "", said.commit_hash or "")


def _ask_server(url: str) -> Answer:
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE) as answer:
            length = answer.headers["Content-Length"]
    except urllib.error.HTTPError as error:
        kind = FileNotFoundError if error.code in (403, 404, 410) else ConnectionError
        raise kind(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url} cannot be asked for: {error!r}") from error
    return Answer(None if length is None else int(length))


def _reach(url: str) -> "HfFileMetadata":
    """What the Hub says of a file. Raises a ConnectionError where it cannot be asked, or its own error of the file."""
    import huggingface_hub as hf
    from huggingface_hub import errors

    try:
        return hf.get_hf_file_metadata(url)
    except (errors.HfHubHTTPError, OSError):
        raise
    except Exception as error:  # of the library that the client speaks HTTP with, which changes with its version
        raise ConnectionError(f"{error}") from error


def _kept(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def download_url(url: str, again: bool = False, offline: bool = False) -> Path:
    """A file from a publisher's own server, kept where torch.hub keeps such files (TORCH_HOME).

    Args:
        again: as its server has it now, in place of the one that is there.
        offline: only one that is there.
    """
    path = _kept(url)
    if path.is_file() and not again:
        return path
    try:
        if offline:
            raise OSError("asked to stay offline")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except OSError as error:
        kept = "" if again else f"is not in {path.parent} and "
        raise ConnectionError(
            f"{url} {kept}could not be downloaded ({error}); connect once, or put the file into {path.parent}"
        ) from error
    return path
