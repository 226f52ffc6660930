"""Every door to a checkpoint: folders, a real Hub server on loopback, torch.hub; and every way one can be damaged."""

import base64
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo import hub
from zoo.hub import files

ROOT = Path(__file__).parents[1]
EMBEDDED = Path(zoo.__file__).parent / "checkpoints" / "bilinear_d256.mnist"


@pytest.fixture
def python(preloaded):
    """Runs a script in a process of its own and gives what it printed; environment variables are read at import."""

    def run(script, **env):
        base = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*preloaded, "-c", script], capture_output=True, text=True, env=base | env)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


# Folders


@pytest.fixture
def folder(tmp_path):
    return zoo.save(zoo.create("bilinear_d64"), tmp_path / "checkpoint")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def rewrite(folder, change):
    """Change the tensors and let the config vouch for the new file: only the strict load can object."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    file = folder / "model.safetensors"
    edit_config(folder, weights={"file": file.name, "sha256": hub.hash_file(file), "size": file.stat().st_size})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.weight"), r"1 missing \(head.weight first\)"),
        (lambda s: s.update(more=torch.zeros(1)), r"1 unexpected \(more first\)"),
        (
            lambda s: s.update({"head.weight": torch.zeros(10, 63)}),
            r"1 misshapen \(head.weight is \(10, 63\), not \(10, 64\)\); nothing was loaded",
        ),
    ],
)
def test_tensors_fit_to_the_last_one_or_nothing_is_loaded(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        zoo.load(str(folder))


def test_a_flipped_byte_is_found(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1000] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"has sha256 .*…, expected .*…; get .*checkpoint again"):
        zoo.load(str(folder))


def test_half_a_file_is_found(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"bytes of 236,304: it is cut or changed; get .*checkpoint again"):
        zoo.load(str(folder))


def test_a_pickle_is_not_opened(folder):
    torch.save({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"is a pickle, not safetensors; it was not opened. `zoo convert`"):
        zoo.load(str(folder))


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"arch": "bilinear_d64", "args": {}}', "[" * 100_000])
def test_a_config_that_says_nothing_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not a checkpoint's config .*; it needs arch, args, and weights"):
        zoo.load(str(folder))


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/hostname", "a/b", "..", "", "..\\model.safetensors"])
def test_a_config_cannot_name_a_file_outside_its_folder(folder, file):
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, weights=config["weights"] | {"file": file})
    with pytest.raises(ValueError, match="outside its folder"):
        zoo.load(str(folder))


def test_another_arch_is_named(folder):
    with pytest.raises(ValueError, match=r"holds bilinear_d64, not bilinear_d256; zoo.load"):
        zoo.create("bilinear_d256", str(folder))


def test_an_unknown_arch_in_a_config_is_named(folder):
    edit_config(folder, arch="bilinear_d63")
    with pytest.raises(ValueError, match="no arch 'bilinear_d63', did you mean bilinear_d64"):
        zoo.load(str(folder))


def test_a_folder_without_weights_or_config_says_what_is_missing(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing"):
        zoo.load(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config.json, so it is no checkpoint"):
        zoo.load(str(folder))


def test_a_full_disk_leaves_the_old_checkpoint(folder, python):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    out = python(f"""
import resource, signal, sys, zoo
model = zoo.create("bilinear_d512_l3")
sys.dont_write_bytecode = True  # a cut .pyc would stay
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    zoo.save(model, {str(folder)!r})
except OSError as error:
    print(error)
""")
    assert "nothing in it was changed, save to another folder" in out
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    zoo.load(str(folder))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*file/checkpoint"):
        zoo.save(zoo.create("bilinear_d64"), tmp_path / "file" / "checkpoint")


# A file under a loaded model


def in_place(file, data):
    """As cp and rsync --inplace write: the same file with other bytes."""
    with open(file, "r+b") as f:
        f.write(data)
        f.truncate()


def checkpoint(tmp_path):
    """A Lightning checkpoint and other weights of its arch in another."""
    files = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for file in files:
        model = zoo.create("bilinear_d64")
        state = {f"model.{k}": v for k, v in model.state_dict().items()}
        torch.save({"zoo": model.zoo_config, "state_dict": state}, file)
    return str(files[0]), files[0], files[1].read_bytes()


def saved(tmp_path):
    places = [zoo.save(zoo.create("bilinear_d64"), tmp_path / name) / "model.safetensors" for name in "ab"]
    return str(places[0].parent), places[0], places[1].read_bytes()


@pytest.mark.parametrize(
    ("make", "mmap", "kept"),
    [(saved, None, True), (saved, False, True), (saved, True, False), (checkpoint, None, True)],
)
def test_what_is_written_into_a_file_changes_no_model_unless_it_is_mapped(make, mmap, kept, tmp_path):
    name, file, other = make(tmp_path)
    model = zoo.load(name, mmap=mmap)
    before = model.head.weight.clone()
    in_place(file, other)
    assert torch.equal(model.head.weight, before) == kept


def test_a_foreign_file_is_not_held_either(tmp_path):
    _, file, other = saved(tmp_path)
    model = zoo.convert(file, "bilinear_d64")
    before = model.head.weight.clone()
    in_place(file, other)
    assert torch.equal(model.head.weight, before)


def test_files_above_the_stated_size_are_mapped_unless_told(tmp_path, monkeypatch):
    name, file, other = saved(tmp_path)
    monkeypatch.setattr(files, "IN_MEMORY", file.stat().st_size - 1)
    mapped, read = zoo.load(name), zoo.load(name, mmap=False)
    assert torch.equal(mapped.head.weight, read.head.weight)
    in_place(file, other)
    assert not torch.equal(mapped.head.weight, read.head.weight)


def test_every_kind_of_tensor_is_read_as_it_was_written(tmp_path):
    kinds = [k for k in files.DTYPES.values() if not k.is_complex]
    tensors = {f"{k}": torch.arange(6).reshape(2, 3).to(k) for k in kinds}
    tensors |= {"none": torch.zeros(0, 4), "one": torch.tensor(7.0), "complex": torch.tensor([1 + 2j])}
    save_file(tensors, tmp_path / "a.safetensors")
    for mmap in (False, True):
        found = files.read_safetensors(tmp_path / "a.safetensors", mmap)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert bytes(found[name].view(-1).untyped_storage()) == bytes(tensor.untyped_storage())
    read = files.read_safetensors(tmp_path / "a.safetensors", False)
    assert len({t.untyped_storage().data_ptr() for t in read.values() if t.numel()}) == len(tensors) - 1


def test_a_file_is_to_the_byte_the_one_that_the_library_writes(tmp_path):
    tensors = {f"{k} {n}": torch.arange(6).reshape(2, 3).to(k) for k in files.DTYPES.values() for n in ("b", "a")}
    tensors |= {"none": torch.zeros(0, 4), "one": torch.tensor(7.0), 'a "ö"\n': torch.ones(5, dtype=torch.bool)}
    save_file(tensors, tmp_path / "library.safetensors", metadata={"format": "pt"})
    files.write_safetensors(tensors, tmp_path / "ours.safetensors")
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"safetensors has no torch.complex128, which z is; cast it"):
        files.write_safetensors({"z": torch.zeros(1, dtype=torch.complex128)}, tmp_path / "z.safetensors")


# The Hub: a real server over local git repositories


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """olah on loopback with org/name: a branch `old` of random weights and `main` of the embedded ones."""
    root = tmp_path_factory.mktemp("hub")
    repo = root / "mirrors" / "models" / "org" / "name"
    zoo.save(zoo.create("bilinear_d64"), repo)

    def git(*argv):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        return subprocess.run(
            ["git", *identity, *argv], cwd=repo, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "old")
    git("branch", "old")
    old = git("rev-parse", "HEAD")
    for file in EMBEDDED.iterdir():
        shutil.copy(file, repo)
    git("add", "-A")
    git("commit", "-qm", "new")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (root / "olah.toml").write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\nrepos-path = "{root}/repos"\nmirrors-path = ["{root}/mirrors"]\n'
        f'mirror-netloc = "127.0.0.1:{port}"\nlog-path = "{root}/logs"\n[accessibility]\noffline = true\n'
    )
    olah = Path(sys.executable).parent / "olah-cli"
    with open(root / "out", "w") as out:
        process = subprocess.Popen(
            [olah, "-c", root / "olah.toml"], cwd=root, stdout=out, stderr=out
        )  # logs into its cwd
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, (root / "out").read_text()
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}", old
    process.terminate()
    process.wait(10)


TRY = """
import sys, zoo
for name in sys.argv[1:] or NAMES:
    try:
        model = zoo.load(name)
        print(name, "->", model.zoo_config["arch"], float(model.head.weight.double().sum()))
    except Exception as error:
        print(name, "->", type(error).__name__, error)
"""


@pytest.fixture
def attempt(python):
    def attempt(names, **env):
        lines = python(f"NAMES = {names!r}\n{TRY}", **env).splitlines()
        return {line.partition(" -> ")[0]: line.partition(" -> ")[2] for line in lines if " -> " in line}

    return attempt


@pytest.mark.long
def test_the_hub_by_name_branch_and_revision_online_and_from_the_cache(server, tmp_path, attempt):
    url, old = server
    names = ["hf://org/name", "hf://org/name@old", f"hf://org/name@{old}"]
    found = attempt(
        [*names, "hf://org/nothing", "hf://org/name@nowhere", "hf://name"], HF_ENDPOINT=url, HF_HOME=str(tmp_path)
    )
    head = zoo.load(str(EMBEDDED)).head.weight.double().sum().item()
    assert found["hf://org/name"] == f"bilinear_d256 {head}"
    assert found["hf://org/name@old"] == found[f"hf://org/name@{old}"]
    assert found["hf://org/name@old"].startswith("bilinear_d64 ")
    assert found["hf://org/nothing"].startswith("FileNotFoundError no repository or revision hf://org/nothing")
    assert found["hf://org/name@nowhere"].startswith("FileNotFoundError")
    assert found["hf://name"].startswith("ValueError 'hf://name' is not hf://org/name or hf://org/name@revision")
    assert attempt(names, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)) == {n: found[n] for n in names}

    blobs = [p for p in tmp_path.rglob("blobs/*") if p.stat().st_size > 1_000_000]
    data = bytearray(blobs[0].read_bytes())
    data[-1] ^= 1
    blobs[0].write_bytes(data)
    tampered = attempt(["hf://org/name"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))["hf://org/name"]
    assert tampered.startswith("ValueError")
    assert f"expected {zoo.weights_info('bilinear_d256.mnist').sha256[:12]}…; delete {blobs[0]}" in tampered
    blobs[0].write_bytes(data[:1000])
    cut = attempt(["hf://org/name"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))["hf://org/name"]
    assert "has 1,000 bytes of 1,337,624: it is cut or changed; delete" in cut


def test_offline_without_a_cache_says_what_to_do(tmp_path, attempt):
    found = attempt(["hf://org/name"], HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))["hf://org/name"]
    assert found.startswith("ConnectionError hf://org/name config.json is not in the cache")
    assert "HF_HUB_OFFLINE=1" in found
    assert "zoo ls --pretrained" in found


@pytest.mark.long
def test_a_record_pins_repository_revision_and_hash(server, tmp_path, python):
    url, _ = server
    script = """
import dataclasses, zoo
from zoo import registry
from zoo.families.bilinear import facts as weights
record = registry.weights_info("bilinear_d256.mnist")
far = dataclasses.replace(record, name="bilinear_d256.far", repo="org/name", revision="main")
weights.WEIGHTS = [far, dataclasses.replace(far, name="bilinear_d256.forged", sha256="0" * 64)]
weights.WEIGHTS += [dataclasses.replace(far, name="bilinear_d256.unstated", sha256="", revision=None)]
registry.forget()
print(float(zoo.create("bilinear_d256", "far").head.weight.double().sum()))
try:
    zoo.load("bilinear_d256.forged")
except ValueError as error:
    print(error)
from zoo.hub import fetch
with fetch.fetching() as seen:
    zoo.load("bilinear_d256.unstated")
print(seen.came[0].pin.commit)
"""
    record = zoo.weights_info("bilinear_d256.mnist")
    here = {"HF_HOME": str(tmp_path), "ZOO_LOCK": str(tmp_path / "lock.json")}
    out = python(script, HF_ENDPOINT=url, **here).splitlines()
    assert float(out[0]) == zoo.load(str(EMBEDDED)).head.weight.double().sum().item()
    assert "its publisher states 000000000000…; delete" in out[1]
    assert json.loads((tmp_path / "lock.json").read_text())["pins"] == {
        "hf://org/name/model.safetensors": {"sha256": record.sha256, "size": record.size, "commit": out[2]}
    }
    assert (tmp_path / "hub" / "models--org--name" / "snapshots" / out[2]).is_dir()


# Publishing


class Upload(http.server.BaseHTTPRequestHandler):
    """The Hub's upload endpoints: what the client sends is kept, weights go the LFS way as on the Hub."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, body))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self.answer({"url": f"{self.server.url}/org/name", "name": "org/name"})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            self.answer(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": mode[f["path"].endswith(".safetensors")],
                            "shouldIgnore": False,
                        }
                        for f in files
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = {"upload": {"href": f"{self.server.url}/lfs"}}
            self.answer({"transfer": "basic", "objects": [o | {"actions": upload} for o in objects]})
        elif "/commit/" in path and self.server.refuses:
            self.send_error(403)
        elif "/commit/" in path:
            self.answer({"commitUrl": f"{self.server.url}/org/name/commit/{'c' * 40}", "commitOid": "c" * 40})
        else:
            self.answer({})

    def do_PUT(self):
        self.server.seen.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer({})

    def do_GET(self):
        self.answer({"id": "org/name", "sha": "0" * 40})

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def uploads():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upload)
    server.url, server.seen, server.refuses = f"http://127.0.0.1:{server.server_port}", [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_push_makes_one_commit_of_config_weights_and_card_with_results(uploads, tmp_path, python):
    script = "import zoo; print(zoo.push('bilinear_d256.mnist', 'name'))"
    token = "hf_" + "secret" * 6
    out = python(
        script,
        HF_ENDPOINT=uploads.url,
        HF_TOKEN=token,
        HF_HOME=str(tmp_path),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        ZOO_HUB_ORG="org",
    )
    assert out.strip().splitlines()[-1] == "c" * 40
    assert token not in out
    commits = [body for path, body in uploads.seen if "/commit/" in path]
    assert len(commits) == 1
    assert next(path for path, _ in uploads.seen if "/commit/" in path).startswith("/api/models/org/name/commit/main")
    lines = [json.loads(line) for line in commits[0].splitlines()]
    files = {line["value"]["path"]: line for line in lines if line["key"] in ("file", "lfsFile")}
    assert files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert files["model.safetensors"]["value"]["oid"] == zoo.weights_info("bilinear_d256.mnist").sha256
    assert (EMBEDDED / "model.safetensors").read_bytes() in [body for path, body in uploads.seen if path == "/lfs"]
    for name in ("config.json", "README.md"):
        lying = (EMBEDDED / name).read_text(encoding="utf-8")
        assert base64.b64decode(files[name]["value"]["content"]).decode() == lying.replace("ORG/NAME", "org/name")


def test_a_push_that_the_hub_refuses_leaves_its_address_nowhere(uploads, folder, tmp_path, python):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    uploads.refuses = True
    script = f"""
import zoo
try:
    zoo.push({str(folder)!r}, "org/name")
except Exception as error:
    print(type(error).__name__)
"""
    hidden = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "hf_" + "secret" * 6}
    out = python(script, HF_ENDPOINT=uploads.url, HF_HOME=str(tmp_path / "hf"), **hidden)
    assert out.strip() == "ConnectionError"
    assert any("/commit/" in path for path, _ in uploads.seen)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert b"org/name" not in b"".join(before.values())


def test_the_card_is_valid_and_carries_the_results():
    from huggingface_hub import ModelCard

    card = ModelCard.load(EMBEDDED / "README.md")
    record = zoo.weights_info("bilinear_d256.mnist")
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["ylecun/mnist"]
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        (m.name, m.value) for m in record.metrics
    ]
    assert record.command in card.content


def test_a_dry_run_writes_exactly_what_would_be_pushed_and_it_loads(tmp_path):
    out = zoo.push("bilinear_d256.mnist", "org/name", dry_run=tmp_path / "dry")
    lying = {p.name: p.read_bytes().replace(b"hf://ORG/NAME", b"hf://org/name") for p in EMBEDDED.iterdir()}
    assert {p.name: p.read_bytes() for p in Path(out).iterdir()} == lying
    assert torch.equal(zoo.load(out).head.weight, zoo.load("bilinear_d256.mnist").head.weight)


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "config.json"])
def test_push_refuses_a_link_out_of_the_folder(folder, name, tmp_path, uploads):
    (folder / name).rename(tmp_path / "private")
    (folder / name).symlink_to("../private")
    said = rf"{name} is a link to {tmp_path}/private, only files of the folder are published; .* put a copy in"
    with pytest.raises(ValueError, match=said):
        zoo.push(folder, "org/name")
    with pytest.raises(ValueError, match="is a link to"):
        zoo.push(folder, "org/name", dry_run=tmp_path / "dry")
    assert uploads.seen == []
    assert not (tmp_path / "dry").exists()


def test_push_follows_links_inside_of_the_folder_and_one_to_it(folder, tmp_path):
    (folder / "README.md").rename(folder / "CARD.md")
    (folder / "README.md").symlink_to("CARD.md")
    (tmp_path / "link").symlink_to(folder)
    out = Path(zoo.push(tmp_path / "link", "org/name", dry_run=tmp_path / "dry"))
    assert (out / "README.md").read_text() == (folder / "CARD.md").read_text().replace("ORG/NAME", "org/name")
    assert not (out / "README.md").is_symlink()


def test_what_is_written_into_a_folder_leaves_it_by_no_link(tmp_path):
    private, given = tmp_path / "private", tmp_path / "given"
    private.write_text("mine")
    given.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (given / name).symlink_to(private)
        (given / f".{name}.{os.getpid()}.part").symlink_to(private)
    zoo.push(zoo.save(zoo.create("bilinear_d64"), given), "org/name", dry_run=tmp_path / "dry")
    assert private.read_text() == "mine"
    assert {p.name for p in given.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_what_does_not_load_is_not_published(folder, uploads):
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cut or changed"):
        zoo.push(folder, "org/name")
    assert uploads.seen == []


# torch.hub, and all doors together


@pytest.mark.parametrize("arch", zoo.list_models())
def test_torch_hub_makes_every_arch(arch):
    with torch.device("meta"):  # where a billion parameters take neither memory nor time
        model = torch.hub.load(str(ROOT), arch, source="local")
    assert model.zoo_config == {"arch": arch, "args": {}}
    assert model.training


def test_the_doors_agree_bit_for_bit(tmp_path):
    from zoo import cli

    assert cli.main(["export", "bilinear_d256.mnist", str(tmp_path / "exported")]) == 0
    first = zoo.load("bilinear_d256.mnist")
    others = [
        zoo.create("bilinear_d256", weights="mnist"),
        torch.hub.load(str(ROOT), "bilinear_d256", source="local", weights="mnist"),
        zoo.load(str(EMBEDDED)),
        zoo.load(str(tmp_path / "exported")),
    ]
    images = torch.rand(4, 1, 28, 28)
    for other in others:
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in first.state_dict().items())
        assert torch.equal(first(images), other.eval()(images))


def test_spawned_workers_and_unpickling_find_the_package(tmp_path):
    (tmp_path / "main.py").write_text(f"""
import multiprocessing, torch
def work(model): return float(model.eval()(torch.zeros(1, 1, 28, 28)).sum())
if __name__ == "__main__":
    model = torch.hub.load({str(ROOT)!r}, "bilinear_d64", source="local")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [model]))
""")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "[0.0]", done.stderr


def test_another_package_named_zoo_is_said_by_its_path(tmp_path, python):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "__init__.py").write_text("")
    script = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import zoo, torch
try:
    torch.hub.load({str(ROOT)!r}, "bilinear_d64", source="local")
except ImportError as error:
    print(error)
"""
    out = python(script)
    assert f"another package named zoo is already imported, from {tmp_path / 'zoo'}" in out
    assert "fresh Python process" in out


@pytest.mark.parametrize("stated", [{"shape": [1, 28, 28], "layout": "B C H W", "range": [0, 1]}, None])
def test_a_folder_from_before_inputs_had_a_kind_reads_on(tmp_path, stated):
    for file in EMBEDDED.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["input"]
    config |= {} if stated is None else {"input": stated | {"normalised_inside": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = zoo.load(str(tmp_path))
    assert model.takes == zoo.load("bilinear_d256.mnist").takes
    assert model.takes.kind == "image"
    again = zoo.save(model, tmp_path / "again")
    assert json.loads((again / "config.json").read_text())["input"]["kind"] == "image"


def test_a_card_states_the_data_that_each_metric_was_measured_on():
    from huggingface_hub import ModelCard

    name = "mae_vit_tiny.tiny_imagenet"  # trained on one set, probed on another
    record, card = zoo.weights_info(name), ModelCard.load(EMBEDDED.with_name(name) / "README.md")
    assert card.data.datasets == [record.data]
    for result, metric in zip(card.data.eval_results, record.metrics, strict=True):
        assert (result.dataset_type, result.dataset_name) == (metric.data, metric.data)
