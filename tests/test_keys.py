"""What a recipe can set, as the parser, the help and the refusal of a typo know it."""

import subprocess
from pathlib import Path

import pytest
import yaml

import zoo
from zoo import cli
from zoo.train import keys

ROOT = Path(__file__).parents[1]


class Parent(zoo.LitClassifier):
    """Trains.

    Args:
        shared: what all trainings have.
        replaced: as the parent says it.
    """

    def __init__(self, arch: str, shared: float = 0.5, replaced: int = 1):
        super().__init__(arch)


class Mixin:
    """Averages.

    Args:
        ema: decay of the average.
    """

    def __init__(self, arch: str, ema: float = 0.9, **common):
        super().__init__(arch, **common)


class Child(Mixin, Parent):
    """Trains otherwise.

    Args:
        own, other: of this class
            alone.
    """

    def __init__(self, arch: str, own: float | None = None, other: str = "x", **common):
        super().__init__(arch, replaced=2, **common)


def test_keys_are_those_of_a_class_and_of_the_parents_it_hands_keywords_to():
    found = keys.keys_of(Child)
    assert set(found) == {"arch", "own", "other", "ema", "shared"}  # `replaced` is decided by the child
    assert found["own"] == ("float | None", None, "of this class alone.")
    assert found["other"].about == found["own"].about
    assert found["ema"] == ("float", 0.9, "decay of the average.")
    assert found["shared"] == ("float", 0.5, "what all trainings have.")


@pytest.mark.parametrize(
    ("argv", "end"),
    [
        (["mae/smoke", "--model.mask_ratio", "0.6"], "'model.mask_ratio', did you mean --model.arch_args.mask_ratio?"),
        (["mae/smoke", "--model.mask_ratioo=0.6"], "did you mean --model.arch_args.mask_ratio or"),
        (["rae/smoke", "--model.disc_tapss", "[1]"], "'model.disc_tapss', did you mean disc_taps"),
        (["mae/smoke", "--lr", "1"], "'lr', did you mean --model.lr?"),
        (["mae/smoke", "--model.max_epochs", "1"], "did you mean --trainer.max_epochs?"),
        (["mae/smoke", "--traner.max_epochs", "1"], "did you mean --trainer.max_epochs?"),
        (["mae/smoke", "--model.arch", "vqvae_conv_small", "--model.code_dimm", "3"], "--model.arch_args.code_dim?"),
        (["mae/smoke", "--data=zoo.ImageData", "--data.shape=[3,8,8]"], "this recipe's ImageData takes --data.source;"),
        (["rae/tiny_imagenet_ditdh", "--data.source", "x"], "this recipe's LatentData takes --data.folder;"),
        (["mae/smoke", "--model.perceptual_weight", "1"], "a key of LitDCAE, LitRAE, LitVQGAN, this recipe's LitMAE"),
        (["mae/smoke", "--trainer.zzzz", "1"], "no key 'trainer.zzzz'; `zoo fit RECIPE --help` lists them"),
    ],
    ids=str,
)
def test_an_unknown_key_is_answered_by_the_one_that_is_meant(argv, end, capsys, tmp_path):
    assert cli.main(["fit", *argv, "--runs", str(tmp_path)]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert end in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mae/smoke", "dcae/in1k_f32c32_phase3", "rae/tiny_imagenet_ditdh"])
def test_the_help_of_a_recipe_lists_every_key_that_can_be_set(name, capsys):
    assert cli.main(["fit", name, "--data.batch_size", "77", "--help"]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines() if line]
    assert max(map(len, text.splitlines())) <= 120
    recipe = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    classes = [getattr(zoo, recipe[role]["class_path"].removeprefix("zoo.")) for role in keys.ROLES]
    wanted = {
        *(k for kind in classes for k in keys.keys_of(kind)),
        *zoo.hub.keywords(recipe["model"]["init_args"]["arch"]),
    }
    wanted |= {*recipe["trainer"], "seed_everything", "save_steps", "skip_nonfinite"}
    assert wanted <= {line[0] for line in lines}
    assert any(line[:2] == ["batch_size", "int"] and "77" in line for line in lines)
    assert "max_time" not in text  # Lightning's, and this recipe does not set it
    assert "--print_config" in text


def test_the_help_of_a_recipe_tells_values_and_meanings(capsys):
    cli.main(["fit", "mae/smoke", "--help"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "lr float | None 0.01 peak learning rate; or leave it out for" in lines
    assert "dim int 32 of the encoder." in lines
    assert "mask_ratio float the arch's share of the patches that is hidden, strictly between 0 and 1." in lines


def test_the_resolved_recipe_is_printed_and_is_a_recipe(tmp_path, capsys, preloaded):
    command = [*preloaded, "-m", "zoo.cli", "fit", "bilinear/smoke", "--model.lr", "0.5", "--print_config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "mine.yaml").write_text(done.stdout)
    config = yaml.safe_load(done.stdout)
    assert config["model"]["init_args"]["lr"] == 0.5
    assert config["model"]["init_args"]["betas"] == [0.9, 0.999]  # a default
    assert cli.main(["validate", str(tmp_path / "mine.yaml")]) == 0
    assert "learning rate 0.5" in capsys.readouterr().out


class Mine(zoo.ImageData):
    """A reader of one's own that hands on only what it needs."""

    def __init__(self, source: str, batch_size: int = 8):
        super().__init__(source, batch_size=batch_size)


def test_a_run_goes_on_without_flags_that_its_own_reader_does_not_take(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    for kind, flags in (
        ("zoo.ImageData", ["--data.stratify=false", "--data.val_fraction=0.0"]),
        (f"{__name__}.Mine", []),
    ):
        recipe.write_text(yaml.safe_dump({"data": {"class_path": kind, "init_args": {"source": "samples/mnist"}}}))
        assert keys.as_begun(recipe, []) == flags
