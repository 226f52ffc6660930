"""`zoo verify --links`: publishers on loopback are asked for headers, and for nothing else."""

import hashlib
import http.client
import urllib.request

import pytest
from publisher import Machine, publish, publishing, record

from zoo import cli
from zoo.hub import fetch

COMMIT = "1" * 40
HELD = b"as recorded"
SHA = hashlib.sha256(HELD).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub and a plain server, each with the file of one record."""
    with publishing() as server:
        server.repos["org/name"] = {COMMIT: {"model.safetensors": HELD}}
        server.files["/a/model.pth"] = HELD
        on_hub = record("bilinear_d64.far", repo="org/name", sha256=SHA)
        by_url = record("bilinear_d64.url", url=f"{server.url}/a/model.pth", size=len(HELD))
        publish(server, monkeypatch, on_hub, by_url)
        Machine(tmp_path, monkeypatch).use()
        yield server


def linked(capsys, *names):
    status = cli.main(["verify", "--links", *(names or ("bilinear_d64.far", "bilinear_d64.url"))])
    done = capsys.readouterr()
    return status, done.out.splitlines(), done.err


def test_what_is_there_is_a_line_each_and_only_headers_are_asked_for(server, capsys):
    status, (far, url), _ = linked(capsys)
    assert status == 0
    place = "hf://org/name/model.safetensors"
    assert far == f"name: bilinear_d64.far  file: {place}  size: {len(HELD)}  commit: {COMMIT}  there"
    assert url == f"name: bilinear_d64.url  file: {server.url}/a/model.pth  size: {len(HELD)}  there"
    assert {method for method, path in server.asked if "/model." in path} == {"HEAD"}


def test_what_is_gone_or_changed_is_named_and_the_others_are_still_asked_for(server, capsys):
    server.repos["org/name"]["2" * 40] = {"model.safetensors": b"something else"}
    del server.files["/a/model.pth"]
    status, (far, url), _ = linked(capsys)
    assert status == 1
    other = hashlib.sha256(b"something else").hexdigest()
    assert far.endswith(
        f"failed: hf://org/name/model.safetensors has sha256 {other[:12]}… now, {SHA[:12]}… was recorded"
    )
    assert url.endswith("/a/model.pth: HTTP Error 404: Not Found")
    server.files["/a/model.pth"] = HELD + b"!"
    del server.repos["org/name"]
    status, (far, url), _ = linked(capsys)
    assert status == 1
    assert far.endswith("failed: hf://org/name/model.safetensors is not there, or HF_TOKEN does not open it")
    assert url.endswith(f"has {len(HELD) + 1} bytes now, {len(HELD)} were recorded")


def test_a_pin_of_the_lock_is_compared_too(server, capsys, tmp_path, monkeypatch):
    from zoo.hub import lock

    pins = tmp_path / "zoo.lock"
    lock.write(pins, {f"{server.url}/a/model.pth": lock.Pin("0" * 64, 7)})
    monkeypatch.setenv("ZOO_LOCK", str(pins))
    status, (line,), _ = linked(capsys, "bilinear_d64.url")
    assert (status, line.endswith(f"has {len(HELD)} bytes now, 7 were recorded")) == (1, True)


def test_weights_that_ship_have_no_publisher_to_ask(server, capsys):
    status, out, err = linked(capsys, "bilinear_d256.mnist")
    assert (status, out) == (2, [])
    assert "bilinear_d256.mnist ship with the package: no publisher has them" in err


def test_a_server_that_does_not_answer_is_a_line(server, capsys):
    server.shutdown()
    server.server_close()
    status, (line,), _ = linked(capsys, "bilinear_d64.url")
    assert (status, "cannot be asked for" in line) == (1, True)
    server.serve_forever = server.shutdown = lambda *_: None  # the fixture's end finds it closed


def test_a_server_that_answers_no_http_is_a_line(monkeypatch):
    def garbage(*_, **__):
        raise http.client.BadStatusLine("SSH-2.0")

    monkeypatch.setattr(urllib.request, "urlopen", garbage)
    with pytest.raises(ConnectionError, match=r"BadStatusLine\('SSH-2.0'\)"):
        fetch.ask(fetch.Published("x", url="http://localhost/x"))
