"""The command line as a user types it."""

import json

import pytest
from PIL import Image

from zoo import cli, registry


def run(capsys, *argv):
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    return status, out, err


def test_ls_shows_models_weights_and_recipes(capsys):
    status, out, _ = run(capsys, "ls")
    assert status == 0
    for word in ("bilinear_d256.mnist", "bilinear/smoke", "bilinear_d512_l3"):
        assert word in out


def test_ls_filters_and_speaks_json(capsys):
    _, out, _ = run(capsys, "ls", "*.mnist_noise", "--pretrained", "--licence", "permissive", "--json")
    (weights,) = json.loads(out)["weights"]
    assert weights["name"] == "bilinear_d256.mnist_noise"
    assert json.loads(out)["archs"] == []


def test_info_states_metrics_licence_hash_and_command(capsys):
    _, out, _ = run(capsys, "info", "bilinear_d256.mnist")
    for word in ("97.73 %", "Apache-2.0", "90708f83", "zoo fit bilinear/mnist", "CC BY-SA 3.0", "cpu"):
        assert word in out


def test_info_names_the_classes_that_the_checkpoint_states(capsys):
    _, out, _ = run(capsys, "info", "ditdh_tiny.tiny_imagenet", "--json")
    classes = json.loads(out)["classes"]
    assert len(classes) == 200
    assert (classes[0], classes[-1]) == ("goldfish", "acorn")
    assert "goldfish, European fire salamander" in run(capsys, "info", "ditdh_tiny.tiny_imagenet")[1]
    assert json.loads(run(capsys, "info", "vqvae_conv_small.mnist", "--json")[1])["classes"] == []
    assert json.loads(run(capsys, "info", "vqgan_f16.amused_256", "--json")[1])["classes"] == []


def test_eval_ends_with_json(capsys):
    status, out, _ = run(capsys, "eval", "bilinear_d256.mnist")
    figures = json.loads(out.splitlines()[-1])
    assert status == 0
    assert figures["images"] == 1000
    assert figures["data"] == "samples/mnist"
    assert figures["accuracy"] == pytest.approx(0.973, abs=1e-9)
    assert abs(figures["accuracy_15_eigenvectors"] - figures["accuracy"]) < 0.005


def test_show_draws_the_weights_and_explains_an_image(capsys, tmp_path):
    Image.new("L", (40, 50), 30).save(tmp_path / "digit.png")
    assert run(capsys, "show", "bilinear_d256.mnist", "-o", str(tmp_path / "a" / "weights.png"))[0] == 0
    assert (
        run(capsys, "show", "bilinear_d256.mnist", str(tmp_path / "digit.png"), "-o", str(tmp_path / "why.png"))[0] == 0
    )
    assert Image.open(tmp_path / "a" / "weights.png").width > 500
    assert Image.open(tmp_path / "why.png").width > 500


def test_verify_checks_all_that_ship(capsys):
    status, out, _ = run(capsys, "verify")
    assert status == 0
    assert out.count("golden: ok") == sum(w.embedded for w in registry.records().values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evla"], "no verb 'evla', did you mean eval"),
        (["ls", "biliner_d256"], "nothing matches 'biliner_d256', did you mean bilinear_d256"),
        (["info", "bilinear_d256.mnst"], "it has bilinear_d256.mnist, bilinear_d256.mnist_noise"),
        (["eval", "bilinear_d256.mnist", "--data", "./nowhere"], "no folder ./nowhere"),
        (["show", "bilinear_d256.mnist", "nothing.png"], "nothing.png"),
        (["export", "nowhere/run", "out"], "no folder nowhere/run"),
        (["cp", "bilinear/mnits", "x.yaml"], "did you mean bilinear/mnist"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, argv, message):
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_file_that_is_no_image_is_named(capsys, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    status, _, err = run(capsys, "show", "bilinear_d256.mnist", str(tmp_path / "text.png"))
    assert status == 2
    assert "text.png cannot be decoded" in err
