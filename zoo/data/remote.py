"""Files that lie elsewhere, by URL: an object store, a web server, the Hub. fsspec reads them."""

import fsspec
from fsspec.registry import known_implementations

ALLOWED = "a folder, https://, s3://, gs:// and hf://datasets/org/name"


def file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """What reads a URL, and the path there; keys and endpoints come from fsspec's own configuration.

    Raises:
        ValueError: its protocol is unknown, or needs a package that is not here.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url} {_wants(url.partition('://')[0], error)}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}; allowed are {ALLOWED}") from error


def read(url: str) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: as `file_system`'s.
    """
    fs, path = file_system(url)
    with fs.open(path, "rb") as file:
        data: bytes = file.read()
    return data


def _wants(protocol: str, error: ImportError) -> str:
    """The package that a protocol needs: the one that brings it, else what fsspec says of its own part."""
    known = known_implementations.get(protocol, {"class": "fsspec.implementations"})
    package = known["class"].partition(".")[0]
    return f"needs a package: {error}" if package == "fsspec" else f"needs the package {package}; pip install {package}"
