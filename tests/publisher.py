"""A publisher on loopback whose files can change: a Hub of repositories with commits, and a server of plain files."""

import dataclasses
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

import zoo
from zoo import registry


class Publisher(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does: the commit that a revision stands for, and a large file's sha256 as its etag.

    Of a data set it lists the files too.
    """

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        path = self.path.partition("?")[0].strip("/")
        listed = path.startswith("api/")
        repo, _, rest = path.removeprefix("api/").partition("/revision/" if listed else "/resolve/")
        revision, _, file = rest.partition("/")
        commits, heads = self.server.repos.get(repo, {}), self.server.heads.get(repo, {})
        newest = [commit for commit in commits if commit not in heads.values()]
        known = ({"main": newest[-1], "": newest[-1]} if newest else {}) | heads
        commit = known.get(unquote(revision), revision)
        if (rest or listed) and commit not in commits:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound" if commits else "RepoNotFound"})
        if listed:
            files = [{"rfilename": name} for name in commits[commit]]
            about = {"id": repo.removeprefix("datasets/"), "sha": commit, "siblings": files}
            return self.answer(200, json.dumps(about).encode(), {})
        if repo in self.server.gated:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        content = commits[commit].get(unquote(file)) if rest else self.server.files.get(self.path)
        if content is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, {"X-Repo-Commit": commit, "ETag": etag} if rest else {})

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def publishing() -> Iterator[http.server.ThreadingHTTPServer]:
    """What is there, and what was `asked`.

    `repos`: repository → commit → file → content, the newest commit last, "datasets/org/name" of data; `heads`:
    repository → branch → commit, of branches but main; `gated`: repositories whose files nobody gets; `files`: path →
    content.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    server.repos, server.heads, server.gated, server.files, server.asked = {}, {}, set(), {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Machine:
    """Where a computer keeps things; `use` makes this process work on it."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch):
        self.place, self.patch = place, patch

    def use(self, lock: Path | None = None, cache: Path | None = None) -> "Machine":
        self.patch.setattr(constants, "HF_HUB_CACHE", str(self.place / "hf"))
        self.patch.setenv("TORCH_HOME", str(self.place / "torch"))
        self.patch.setenv("ZOO_CACHE", str(cache or self.place / "zoo"))
        self.patch.setenv("ZOO_LOCK", str(lock or ""))
        return self

    @property
    def kept(self) -> Path:
        return self.place / "torch" / "hub" / "checkpoints"


def publish(server: http.server.ThreadingHTTPServer, patch: pytest.MonkeyPatch, *records: registry.Weights) -> None:
    """Make the Hub's client ask the server, and the registry know some records more."""
    patch.setattr(constants, "ENDPOINT", server.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    known = dict(registry.records()) | {record.name: record for record in records}
    patch.setattr(registry, "records", lambda: known)


def record(name: str, **facts) -> registry.Weights:
    """A record that states nothing of its file but where it is."""
    like = zoo.weights_info("bilinear_d256.mnist")
    blank = {"args": {}, "sha256": "", "size": 0, "metrics": (), "golden": (), "recipe": None, "command": None}
    return dataclasses.replace(like, name=name, **blank | facts)


def weights(seed: int, place: Path, arch: str = "bilinear_d64", **args) -> bytes:
    """The file of a random model."""
    import torch

    torch.manual_seed(seed)
    return (zoo.save(zoo.create(arch, **args), place / f"{arch}{seed}") / "model.safetensors").read_bytes()
