"""`zoo runs` and `zoo info RUN`: what runs have come to, whatever state they are in."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
from PIL import Image

import zoo
from zoo import cli, recipe
from zoo.report import history
from zoo.train import fit
from zoo.train.callbacks import Lines

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def say(capsys, *argv):
    capsys.readouterr()
    status = cli.main(list(map(str, argv)))
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one recipe, of which the second has another rate and one more epoch."""
    root = tmp_path_factory.mktemp("runs")
    for name, argv in {"plain": [], "fast": ["--model.lr", "0.1", "--trainer.max_epochs=3"]}.items():
        place = ["--run", str(root / "bilinear-smoke" / name)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["zoo", "fit", "bilinear/smoke", *argv])  # which a run writes down
            assert fit.fit(["bilinear/smoke", *argv, "--data.num_images", "128", *place, *QUIET]) == 0
    return root


@pytest.fixture
def copied(runs, tmp_path):
    """The same, to be broken."""
    return shutil.copytree(runs, tmp_path / "runs")


def listed(capsys, *argv):
    status, out, err = say(capsys, "runs", *argv, "--json")
    assert status == 0, err
    return {Path(known["run"]).name: known for known in json.loads(out)}


def test_runs_are_told_by_recipe_what_differs_data_epochs_and_figures(runs, capsys):
    found = listed(capsys, runs)
    measured = json.loads((runs / "bilinear-smoke" / "fast" / "metrics.json").read_text())
    fast = found["fast"]
    assert (fast["recipe"], fast["data"], fast["status"]) == ("bilinear/smoke", "RandomImages", "done")
    assert fast["differs"] == {"model.lr": 0.1, "trainer.max_epochs": 3, "data.num_images": 128}
    assert (fast["epochs"], fast["epochs_planned"], fast["steps"]) == (3, 3, 6)
    assert (fast["figure"], fast["last"], fast["seconds"]) == (
        "val/acc",
        measured["metrics"]["val/acc"],
        measured["seconds"],
    )
    assert fast["best"] >= fast["last"]
    assert fast["classes"] == ["top left", "top right", "bottom left", "bottom right"]
    status, out, _ = say(capsys, "runs", runs)
    assert status == 0
    head, *lines = out.splitlines()
    assert head.split()[:4] == ["recipe", "differs", "data", "epochs"]
    line = next(line for line in lines if "bilinear-smoke/fast" in line)
    assert "lr=0.1" in line
    assert "3/3" in line
    assert f"{100 * fast['last']:.1f} %" in line


def test_data_given_as_a_whole_do_not_make_every_default_of_theirs_differ(runs):
    said = recipe.read_yaml(runs / "bilinear-smoke" / "plain" / "recipe.yaml")
    assert recipe.differing(said, "bilinear/smoke", ["zoo fit bilinear/smoke --data photos/"]) == {
        "data.num_images": 128
    }


def test_figures_of_the_log_are_read_as_they_were_logged(tmp_path):
    log = tmp_path / "run" / "logs" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,step,val/psnr,train/loss\n0,4,,3\n0,9,20.5,\n1,19,nan,\n2,29,19.5,\n3,32,,1\n3,")
    (tmp_path / "run" / "checkpoints").mkdir()
    known = history.read(tmp_path / "run")
    assert (known["figure"], known["last"], known["best"], known["best_epoch"]) == ("val/psnr", 19.5, 20.5, 1)
    assert (known["epochs"], known["steps"]) == (3, 33)  # the fourth has begun
    again = tmp_path / "run" / "logs" / "version_1" / "metrics.csv"  # gone on with from the end of the second epoch
    again.parent.mkdir()
    again.write_text("epoch,step,val/psnr\n2,29,21.0\n")
    known = history.read(tmp_path / "run")
    assert (known["last"], known["best"], known["best_epoch"]) == (21.0, 21.0, 3)
    assert [row["step"] for row in history.rows(tmp_path / "run")] == [4, 9, 19, 29]


def test_runs_are_sorted_by_a_column_the_best_first(runs, copied, capsys):
    file = copied / "bilinear-smoke" / "fast" / "logs" / "version_0" / "metrics.csv"
    file.write_text("epoch,step,val/acc\n0,1,0.25\n1,3,0.125\n")
    order = [Path(k["run"]).name for k in json.loads(say(capsys, "runs", copied, "--sort", "best", "--json")[1])]
    assert order == ["plain", "fast"]
    os.utime(copied / "bilinear-smoke" / "fast", (4e9, 4e9))
    assert next(iter(listed(capsys, copied))) == "fast"
    status, _, err = say(capsys, "runs", copied, "--sort", "bets")
    assert (status, err.strip()) == (
        2,
        "zoo runs: --sort bets, did you mean best?; allowed " + ", ".join(history.SORTS),
    )


@pytest.mark.parametrize(
    ("file", "text", "status", "fault"),
    [
        ("metrics.json", None, "unfinished", ""),
        ("metrics.json", "{", "damaged", "metrics.json cannot be read"),
        ("environment.json", "[]", "damaged", "environment.json is no mapping"),
        ("environment.json", None, "damaged", "no environment.json"),
        ("recipe.yaml", "model: [", "damaged", "is no YAML"),
        ("recipe.yaml", None, "damaged", "no recipe.yaml"),
        ("recipe.yaml", "a: 1", "damaged", "is no recipe"),
    ],
)
def test_a_run_that_is_not_done_or_damaged_is_listed_as_such(copied, capsys, file, text, status, fault):
    path = copied / "bilinear-smoke" / "fast" / file
    path.unlink() if text is None else path.write_text(text)
    known = listed(capsys, copied)
    assert (known["fast"]["status"], known["plain"]["status"]) == (status, "done")
    assert fault in known["fast"]["fault"]
    out = say(capsys, "runs", copied)[1]
    assert status in next(line for line in out.splitlines() if "bilinear-smoke/fast" in line)
    assert (f"zoo fit --resume {path.parent}" in out) == (status == "unfinished")
    code, out, err = say(capsys, "info", path.parent)
    assert code == 0, err
    assert status in out


def test_a_log_that_is_no_text_is_a_damaged_run(copied, capsys):
    (copied / "bilinear-smoke" / "fast" / "logs" / "version_0" / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    assert listed(capsys, copied)["fast"]["status"] == "damaged"


def test_no_runs_are_one_line_that_names_the_next_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for argv in ([], ["empty"]):
        status, _, err = say(capsys, "runs", *argv)
        assert status == 2
        assert "`zoo fit RECIPE` makes" in err


def test_a_run_tells_of_itself_and_of_what_comes_next(runs, capsys):
    run = runs / "bilinear-smoke" / "fast"
    status, out, _ = say(capsys, "info", run)
    assert status == 0
    lines = {line.split(None, 1)[0]: line.split(None, 1)[1] for line in out.splitlines()}
    assert (lines["recipe"], lines["epochs"]) == ("bilinear/smoke", "3 of 3")
    assert "model.lr=0.1" in lines["differs"]
    assert lines["best"].startswith("val/acc ")
    assert lines["checkpoint"] == str(run / "checkpoints" / "last.ckpt")
    assert "top left, top right" in lines["classes"]
    for command in (f"zoo eval {run}", f"zoo export {run} -o FOLDER"):
        assert command in out
    assert json.loads(say(capsys, "info", run / "checkpoints" / "last.ckpt", "--json")[1])["run"] == str(run)
    assert json.loads(say(capsys, "info", runs / "bilinear-smoke", "--json")[1])["recipe"] == "bilinear/smoke"


def test_a_figure_that_is_not_finite_is_null_in_json(copied, capsys):
    file = copied / "bilinear-smoke" / "fast" / "logs" / "version_0" / "metrics.csv"
    file.write_text("epoch,step,val/acc\n0,1,nan\n")
    fast = listed(capsys, copied)["fast"]
    assert (fast["last"], fast["best"]) == (None, None)


def test_curves_are_drawn_of_several_runs_and_told_apart_by_what_differs(runs, tmp_path, capsys):
    places = runs / "bilinear-smoke" / "plain", runs / "bilinear-smoke" / "fast"
    found = [history.read(place) for place in places]
    assert history.legend(found) == ["lr=0.01 max_epochs=2", "lr=0.1 max_epochs=3"]
    output = tmp_path / "new" / "curves.png"
    assert say(capsys, "runs", *places, "-o", output)[:2] == (0, f"{output}\n")
    assert min(Image.open(output).size) > 200
    logged = [history.rows(place) for place in places]
    panel, *_ = [ax for ax in history._drawing(found, logged, ["val/acc"]).axes if ax.get_visible()]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("epochs trained", "val/acc in %")
    (plain, fast) = [line for line in panel.get_lines() if not line.get_label().startswith("_")]
    assert (plain.get_label(), list(plain.get_xdata())) == ("lr=0.01 max_epochs=2", [1, 2])
    assert list(fast.get_ydata())[-1] == pytest.approx(100 * found[1]["last"])
    status, _, err = say(capsys, "runs", *places, "-o", output)
    assert (status, "--force to replace it" in err) == (2, True)
    assert say(capsys, "runs", *places, "-o", output, "--force")[0] == 0


def test_a_run_that_logged_nothing_and_too_many_runs_are_refused(copied, tmp_path, capsys):
    run = copied / "bilinear-smoke" / "fast"
    shutil.rmtree(run / "logs")
    status, _, err = say(capsys, "runs", run, "-o", tmp_path / "x.png")
    assert (status, "logged nothing yet" in err) == (2, True)
    for i in range(history.CURVES):
        shutil.copytree(run, copied / str(i))
    status, _, err = say(capsys, "runs", copied, "-o", tmp_path / "x.png")
    assert (status, "12 runs are too many for one picture; name at most 10" in err) == (2, True)
    assert not (tmp_path / "x.png").exists()


def test_a_listing_and_what_is_known_of_a_run_need_no_torch(runs):
    script = f"""
import sys
from zoo.cli import main
assert main(["runs", {str(runs)!r}]) == 0 and main(["info", {str(runs / "bilinear-smoke" / "fast")!r}]) == 0
assert not {{"torch", "lightning", "matplotlib", "huggingface_hub"}} & {{m.split(".")[0] for m in sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_run_is_trained_by_one_process_at_a_time_and_says_that_it_runs(copied, capsys, monkeypatch):
    run = copied / "bilinear-smoke" / "plain"
    (run / "metrics.json").unlink()
    monkeypatch.setattr(recipe, "PATIENCE", 0)
    code = "import sys, pathlib; from zoo import recipe\n"
    code += "with recipe.alone(pathlib.Path(sys.argv[1])):\n print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, run], stdin=-1, stdout=-1, cwd=ROOT, text=True) as other:
        other.stdout.readline()
        assert history.read(run)["status"] == "running"
        assert cli.main(["fit", "--resume", str(run)]) == 2
        assert f"{run} is being trained by another process; wait for it" in capsys.readouterr().err
        other.kill()
    assert history.read(run)["status"] == "unfinished"
    with recipe.alone(run):
        assert recipe.busy(run)
    assert not recipe.busy(run)
    assert not (run / recipe.BUSY).exists()


def test_a_training_whose_output_goes_to_a_file_tells_an_epoch_each_half_minute(capsys):
    seconds = iter([0.0, *(15.0 * i for i in range(1, 7)), *[90.0] * 9])
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=4, callbacks=[Lines(lambda: next(seconds))], **quiet)
    lit = zoo.LitClassifier("bilinear_d64", num_classes=4, lr=1e-3)
    trainer.fit(lit, zoo.RandomImages((1, 28, 28), 32, 8))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert re.fullmatch(r"epoch 2 of 4: .*val/acc 0\.\d+.*", told[0])
    assert [line.split()[1] for line in told] == ["2", "4"]
