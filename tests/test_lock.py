"""Records without a hash of their own: pinned when they are first loaded, by a Hub and a server that change later."""

import hashlib
import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
from huggingface_hub import constants
from publisher import Machine, publish, publishing, record, weights

import zoo
from zoo import cli
from zoo.hub import lock

FIRST, SECOND = "1" * 40, "2" * 40
FAR, URL = "bilinear_d64.far", "bilinear_d64.url"
PLACE = "hf://org/name/model.safetensors"


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Two records, one on the Hub and one by URL, that state no hash; `old` and `new` are contents of their file."""
    with publishing() as server:
        server.old, server.new = weights(0, tmp_path), weights(1, tmp_path)
        server.repos["org/name"] = {FIRST: {"model.safetensors": server.old}}
        server.files["/a/model.safetensors"] = server.old
        by_url = record(URL, url=f"{server.url}/a/model.safetensors")
        publish(server, monkeypatch, record(FAR, repo="org/name"), by_url)
        yield server


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path / "here", monkeypatch).use()


def pins(path):
    return json.loads(path.read_text())["pins"]


def run(capsys, *argv):
    status = cli.main([str(a) for a in argv])
    done = capsys.readouterr()
    return status, done.out, done.err


def test_a_first_load_pins_what_came_and_says_so_once(server, machine):
    with pytest.warns(UserWarning, match=rf"publisher of {FAR} states no whole sha256: {sha(server.old)} of model.saf"):
        zoo.load(FAR)
    with pytest.warns(UserWarning, match=rf"publisher of {URL} .* is pinned in {machine.place}/zoo/lock.json; compare"):
        zoo.load(URL)
    size = len(server.old)
    assert pins(machine.place / "zoo" / "lock.json") == {
        PLACE: {"sha256": sha(server.old), "size": size, "commit": FIRST},
        f"{server.url}/a/model.safetensors": {"sha256": sha(server.old), "size": size},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.load(FAR)
        zoo.load(URL)


def test_a_lock_serves_another_machine_which_gets_the_commit_that_was_pinned(server, machine, tmp_path, monkeypatch):
    path = tmp_path / "project" / "zoo.lock"
    assert cli.main(["lock", FAR, URL, "-o", str(path)]) == 0
    assert str(tmp_path) not in path.read_text()
    server.repos["org/name"][SECOND] = {"model.safetensors": server.new}
    Machine(tmp_path / "there", monkeypatch).use(lock=path)
    zoo.load(FAR)
    assert ("GET", f"/org/name/resolve/{FIRST}/model.safetensors") in server.asked
    assert not any(SECOND in asked for _, asked in server.asked)

    server.files["/a/model.safetensors"] = server.new
    with pytest.raises(ValueError, match=rf"of {URL} has sha256 {sha(server.new)[:12]}…, {path} pins") as refused:
        zoo.load(URL)
    assert f"pins {sha(server.old)[:12]}…" in str(refused.value)
    assert f"zoo lock {URL} --update, or remove its line from the lock" in str(refused.value)


def test_a_hub_that_serves_another_blob_under_the_commit_is_refused(server, machine, tmp_path, monkeypatch):
    path = tmp_path / "zoo.lock"
    assert cli.main(["lock", FAR, "-o", str(path)]) == 0
    server.repos["org/name"][FIRST] = {"model.safetensors": server.new}
    Machine(tmp_path / "there", monkeypatch).use(lock=path)
    said = (
        rf"of {FAR} has sha256 {sha(server.new)[:12]}…, {path} pins {sha(server.old)[:12]}…: .*zoo lock {FAR} --update"
    )
    with pytest.raises(ValueError, match=said):
        zoo.load(FAR)


def test_a_commit_that_is_gone_is_named_and_update_pins_the_newest(server, machine, tmp_path, monkeypatch, capsys):
    path = tmp_path / "zoo.lock"
    run(capsys, "lock", FAR, URL, "-o", path)
    server.repos["org/name"] = {SECOND: {"model.safetensors": server.new}}
    server.files["/a/model.safetensors"] = server.new
    Machine(tmp_path / "there", monkeypatch).use(lock=path)
    with pytest.raises(FileNotFoundError, match=rf"{FAR}: hf://org/name has no .* at commit {FIRST} any more, which"):
        zoo.load(FAR)
    status, out, _ = run(capsys, "lock", FAR, URL, "--update", "-o", path)
    assert status == 0
    assert out.count(f"pinned now, was sha256 {sha(server.old)}") == 2
    assert pins(path)[PLACE] == {"sha256": sha(server.new), "size": len(server.new), "commit": SECOND}
    zoo.load(FAR)
    zoo.load(URL)


def test_update_fetches_a_file_again_that_is_kept_here(server, machine, capsys):
    run(capsys, "lock", URL)
    (machine.kept / "model.safetensors").write_bytes(server.new)
    with pytest.raises(ValueError, match=rf"{machine.kept}/model.safetensors of {URL} has sha256"):
        zoo.load(URL)
    status, out, _ = run(capsys, "lock", URL, "--update")
    assert (status, out.splitlines()[0].rpartition("  ")[2]) == (0, "as pinned")
    zoo.load(URL)


@pytest.mark.parametrize(("name", "said"), [(FAR, "could not get model.safetensors of hf://org/name"), (URL, "not be")])
def test_update_does_not_take_what_is_kept_for_what_there_is_now(server, machine, capsys, monkeypatch, name, said):
    run(capsys, "lock", name)
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    server.shutdown()
    server.server_close()
    assert run(capsys, "lock", name)[0] == 0
    status, out, err = run(capsys, "lock", name, "--update")
    assert (status, out) == (2, "")
    assert said in err


def test_a_project_lock_takes_over_what_this_machine_has_pinned(server, machine, tmp_path, capsys):
    run(capsys, "lock", FAR)
    server.repos["org/name"][SECOND] = {"model.safetensors": server.new}
    _, out, _ = run(capsys, "lock", FAR, "-o", tmp_path / "zoo.lock")
    assert f"as pinned in {machine.place}/zoo/lock.json" in out
    assert pins(tmp_path / "zoo.lock")[PLACE]["commit"] == FIRST


def test_a_file_that_the_hub_calls_otherwise_is_not_pinned(server, machine):
    zoo.load(FAR)
    (machine.place / "zoo" / "lock.json").unlink()
    (blob,) = (machine.place / "hf").rglob("blobs/*")
    blob.write_bytes(server.new)
    with pytest.raises(
        ValueError, match=rf"has hash {sha(server.new)[:12]}…, its publisher states {sha(server.old)[:12]}"
    ):
        zoo.load(FAR)
    assert not (machine.place / "zoo" / "lock.json").exists()


DAMAGED = {
    "cut": lambda text: text[:-30],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "newer": lambda text: text.replace("lock 1", "lock 2"),
    "no pins": lambda text: '{"format": "latentzoo lock 1"}',
    "half a hash": lambda text: text.replace(text.split('"sha256": "')[1][:32], ""),
    "a size of text": lambda text: text.replace('"size": ', '"size": "1", "x": '),
    "a pin twice": lambda text: text.replace('"pins": {', '"pins": {}, "pins": {'),
    "somebody's": lambda text: '{"name": "app", "lockfileVersion": 3, "packages": {}}',
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_lock_is_refused_by_name_in_a_line(server, machine, tmp_path, capsys, monkeypatch, change):
    path = tmp_path / "zoo.lock"
    run(capsys, "lock", FAR, "-o", path)
    damaged = change(path.read_text())
    path.write_text(damaged)
    machine.use(lock=path)
    with pytest.raises(ValueError, match=rf"{path} is damaged, or no lock file of the zoo \(.*\); put back"):
        zoo.load(FAR)
    status, _, err = run(capsys, "lock", FAR, "--update", "-o", path)
    assert status == 2
    assert err.startswith(f"zoo lock: {path} is damaged")
    assert err.count("\n") == 1
    assert path.read_text() == damaged


def test_a_lock_that_cannot_be_written_is_a_warning_and_an_error_where_it_was_asked_for(
    server, machine, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    machine.use(lock=tmp_path / "file" / "zoo.lock")
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"{FAR} is not pinned, .*file/zoo.lock cannot be written .*set ZOO_LOCK"):
            zoo.load(FAR)
    status, _, err = run(capsys, "lock", FAR, "-o", tmp_path / "file" / "zoo.lock")
    assert status == 2
    assert "file/zoo.lock cannot be written" in err
    assert err.strip().endswith("give another -o FILE")


def test_two_processes_write_one_lock(tmp_path, preloaded):
    script = """
import sys
from pathlib import Path
from zoo.hub import lock
for i in range(40):
    lock.keep(Path(sys.argv[1]), f"hf://org/{sys.argv[2]}{i}", lock.Pin("0" * 64, i))
    lock.keep(Path(sys.argv[1]), "hf://org/shared", lock.Pin(sys.argv[2] * 64, 0))
"""
    path = tmp_path / "zoo.lock"
    env = os.environ | {"PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    both = [subprocess.Popen([*preloaded, "-c", script, str(path), which], env=env) for which in "ab"]
    assert [process.wait(300) for process in both] == [0, 0]
    held = lock.read(path)
    assert len(held) == 81
    assert {pin.size for address, pin in held.items() if "/a" in address} == set(range(40))
    assert not list(tmp_path.glob(".*.part"))


def test_a_link_to_a_lock_stays_one(server, machine, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real.lock")
    machine.use(lock=tmp_path / "link")
    zoo.load(FAR)
    assert (tmp_path / "link").is_symlink()
    assert PLACE in pins(tmp_path / "real.lock")


def test_names_of_a_lock_are_patterns_and_what_ships_is_pinned_by_its_record(server, machine, tmp_path, capsys):
    status, out, _ = run(capsys, "lock", "bilinear_d64*", "bilinear_d256.mnist", "-o", tmp_path / "zoo.lock")
    assert status == 0
    assert [line.split("  ")[0] for line in out.splitlines()[:3]] == [FAR, URL, "bilinear_d256.mnist"]
    assert f"ships, pinned by its record: sha256 {zoo.weights_info('bilinear_d256.mnist').sha256}" in out
    assert len(pins(tmp_path / "zoo.lock")) == 2
    status, _, err = run(capsys, "lock", "bilinear_d46*", "-o", tmp_path / "zoo.lock")
    assert (status, "no weights match 'bilinear_d46*', did you mean bilinear_d" in err) == (2, True)


def test_verify_gives_a_line_each_and_status_1_where_one_fails(server, machine, capsys):
    zoo.load(URL)
    asked = len(server.asked)
    status, out, _ = run(capsys, "verify", "--all")
    lines = {line.split("  ")[0].removeprefix("name: "): line for line in out.splitlines()}
    assert status == 0
    assert lines.keys() == set(zoo.list_weights())
    assert lines[URL].endswith("sha256: ok  strict: ok")
    assert lines[FAR].endswith("not here, not fetched")
    assert lines["bilinear_d256.mnist"].endswith("golden: ok")
    assert len(server.asked) == asked

    (machine.kept / "model.safetensors").write_bytes(server.new)
    status, out, _ = run(capsys, "verify", URL, "bilinear_d256.mnist")
    assert status == 1
    failed, sound = out.splitlines()
    assert failed.startswith(f"name: {URL}  failed: {machine.kept}/model.safetensors of {URL} has sha256")
    assert sound.endswith("golden: ok")
    assert run(capsys, "verify", "bilinear_d256.mnst")[0] == 2
