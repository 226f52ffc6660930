"""Bundles: weights for a machine without a network, with the networks that they need besides."""

import json
import shutil
import socket

import pytest
import timm
import torch
from publisher import Machine, publish, publishing, record, weights
from safetensors.torch import save

import zoo
from zoo import cli
from zoo.hub import embedded_folder

PRIOR, DIGITS, URL, RAE = "vqprior_tiny.far", "vqvae_conv_small.far", "bilinear_d64.url", "rae_mae_vit_tiny.far"
DIT = "ditdh_tiny.far"
VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def shipped(name):
    return (embedded_folder(zoo.weights_info(name)) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def made(tmp_path_factory, patch):
    """A bundle of a prior on a tokeniser, of a DiT on an RAE on timm's encoder, and of weights by URL."""
    root = tmp_path_factory.mktemp("bundle")
    prior, digits = zoo.weights_info("vqprior_tiny.mnist"), zoo.weights_info("vqvae_conv_small.mnist")
    small = {"encoder": f"timm:{VIT}", "encoder_hash": "", "image_size": 64, "encoder_size": 64, "grid": 4}
    small |= {"latent_channels": 192, "dim": 32, "depth": 1, "heads": 2, "hidden": 32}
    dit = {"latent_channels": 192, "grid": 4, "num_classes": 5, "depth": [1, 1], "autoencoder": RAE}
    with publishing() as server:
        torch.manual_seed(0)
        encoder = save(timm.create_model(VIT.partition(".")[0]).state_dict())
        server.repos = {
            "org/prior": {"1" * 40: {"sub/model.safetensors": shipped("vqprior_tiny.mnist")}},
            "org/digits": {"2" * 40: {"model.safetensors": shipped("vqvae_conv_small.mnist")}},
            "org/rae": {"3" * 40: {"model.safetensors": weights(0, root, "rae_mae_vit_tiny", **small)}},
            "org/dit": {"5" * 40: {"model.safetensors": weights(0, root, "ditdh_tiny", **dit)}},
            f"timm/{VIT}": {"4" * 40: {"model.safetensors": encoder}},
        }
        server.files["/d/model.safetensors"] = weights(0, root)
        records = [
            record(PRIOR, args=prior.args | {"tokenizer": DIGITS}, repo="org/prior", file="sub/model.safetensors"),
            record(DIGITS, args=digits.args, repo="org/digits", sha256=digits.sha256, size=digits.size),
            record(RAE, args=small, repo="org/rae", revision="3" * 40),
            record(DIT, args=dit, repo="org/dit"),
            record(URL, url=f"{server.url}/d/model.safetensors"),
        ]
        publish(server, patch, *records)
        Machine(root / "here", patch).use()
        assert cli.main(["bundle", PRIOR, "ditdh_tiny.f*", URL, "bilinear_d256.mnist", "-o", str(root / "out")]) == 0
    return root / "out"


@pytest.fixture
def offline(made, tmp_path, monkeypatch):
    """A machine without a network, and a bundle on it, at another place than where it was made."""

    def refuse(*_, **__):
        raise OSError("network touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    carried = shutil.copytree(made, tmp_path / "carried")
    Machine(tmp_path / "there", monkeypatch).use(cache=carried)
    return carried


@torch.no_grad()
def test_what_a_bundle_holds_loads_and_runs_without_a_network(offline, tmp_path):
    prior, known = zoo.load(PRIOR), zoo.load("vqprior_tiny.mnist")
    labels, seed = torch.tensor([3, 7]), torch.Generator
    drawn = prior.sample(labels, generator=seed().manual_seed(0))
    assert torch.equal(drawn, known.sample(labels, generator=seed().manual_seed(0)))
    assert zoo.load(DIT).autoencoder.encode(torch.rand(1, 3, 64, 64)).shape == (1, 192, 4, 4)
    assert zoo.load(URL).takes.shape == (1, 28, 28)
    assert zoo.load(DIGITS).count_codes() == zoo.load("vqvae_conv_small.mnist").count_codes()
    assert not (tmp_path / "there").exists()  # nothing was looked for or kept elsewhere
    held = {path.relative_to(offline).as_posix() for path in offline.rglob("*") if path.is_file()}
    assert "weights/hf/org/prior/sub/model.safetensors" in held
    assert f"weights/hf/timm/{VIT}/model.safetensors" in held
    assert len(held) == 7  # six files and the lock
    assert len(json.loads((offline / "lock.json").read_text())["pins"]) == 6
    assert str(tmp_path.parent) not in (offline / "lock.json").read_text()


def test_a_lock_of_a_project_goes_with_a_bundle(offline, tmp_path, monkeypatch):
    pinned = json.loads((offline / "lock.json").read_text())
    for pin in pinned["pins"].values():
        pin.pop("packed")
    (tmp_path / "zoo.lock").write_text(json.dumps(pinned))
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "zoo.lock"))
    zoo.load(PRIOR)
    pinned["pins"]["hf://org/prior/sub/model.safetensors"]["sha256"] = "0" * 64
    (tmp_path / "zoo.lock").write_text(json.dumps(pinned))
    with pytest.raises(ValueError, match=rf"of {PRIOR} has sha256 .*, {tmp_path}/zoo.lock pins 000000000000…"):
        zoo.load(PRIOR)


def test_a_bundle_that_lacks_a_file_is_refused_by_its_name_and_the_record(offline, capsys):
    (offline / "weights" / "hf" / "org" / "digits" / "model.safetensors").unlink()
    said = rf"the bundle {offline} lacks weights/hf/org/digits/model.safetensors, which {DIGITS} needs; copy it whole"
    with pytest.raises(FileNotFoundError, match=said):
        zoo.load(PRIOR).sample(torch.tensor([1]))
    assert cli.main(["verify", DIGITS]) == 1
    assert f"name: {DIGITS}  failed: the bundle" in capsys.readouterr().out


@pytest.mark.parametrize("name", [PRIOR, DIGITS, URL, RAE])
def test_a_changed_file_of_a_bundle_is_refused(offline, name):
    for file in offline.rglob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"has (hash|sha256) \w{12}…"):
        zoo.load(name)


def test_only_a_bundle_is_replaced_and_only_by_force(offline, tmp_path, capsys, monkeypatch):
    def bundle(folder, *more):
        status = cli.main(["bundle", URL, "-o", str(folder), *more])
        return status, capsys.readouterr().err

    said = bundle(offline)
    assert (said[0], "exists; give another -o, or --force to replace it" in said[1]) == (2, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for force in ((), ("--force",)):
        status, err = bundle(tmp_path / "mine", *force)
        assert (status, "holds notes.txt, which is not of a bundle" in err) == (2, True)
    (tmp_path / "locked").mkdir()
    shutil.copy(offline / "lock.json", tmp_path / "locked")
    (tmp_path / "locked" / "lock.json").write_text('{"format": "latentzoo lock 1", "pins": {}}')
    assert "its lock.json is no bundle's" in bundle(tmp_path / "locked", "--force")[1]

    other = shutil.copytree(offline, tmp_path / "other")
    assert bundle(other, "--force")[0] == 0  # of what lies in the bundle that is here
    assert [path.name for path in other.rglob("*.safetensors")] == ["model.safetensors"]
    assert sorted(path.name for path in other.iterdir()) == ["lock.json", "weights"]


@pytest.mark.parametrize("place", ["checkpoints/mine/notes.txt", "weights/mine.bin", "checkpoints/notes.txt"])
def test_what_lies_inside_a_bundle_and_is_not_of_it_stays(offline, capsys, place):
    (offline / place).parent.mkdir(parents=True, exist_ok=True)
    (offline / place).write_text("mine")
    assert cli.main(["bundle", URL, "-o", str(offline), "--force"]) == 2
    assert f"it holds {place}, which is not of a bundle" in capsys.readouterr().err
    assert (offline / place).read_text() == "mine"


def test_what_ships_needs_no_bundle(tmp_path, capsys):
    assert cli.main(["bundle", "bilinear_d256.mnist", "-o", str(tmp_path / "out")]) == 2
    assert "nothing to pack: bilinear_d256.mnist ship with the package" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
