"""What checkpoints give by all that their classes can do; as a script, where only torch and safetensors are installed.

python -I -S bare.py PATHS FILE: zoo.load of all that ship, from a checkout.
python -I -S bare.py PATHS FILE ZIP: torch.hub.load of all that lie in a repository's archive, as GitHub makes one.

PATHS is a sys.path in JSON, of which everything but INSTALLED is left out. FILE gets, by torch.save, what each
gives; of a checkout what is told of packages that are missing, of an archive what torch.hub lists.
"""

import contextlib
import inspect
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

# What `pip install torch safetensors` brings, and this repository's own.
INSTALLED = {"torch", "torchgen", "functorch", "safetensors", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath"}
INSTALLED |= {"networkx", "sympy", "typing_extensions", "setuptools", "triton", "nvidia", "cuda"}
INSTALLED |= {"zoo", "latentzoo_weights"}
STANDARD = list(sys.path)  # Python's own library, with -I -S


class Installed(PathFinder):
    """Finds nothing else, like an environment in which nothing else is."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        known = path is not None or fullname in INSTALLED
        return super().find_spec(fullname, path if known else STANDARD, target)


def sample(model: Any) -> Any:
    """One random sample that a model takes; the masks that follow are the same everywhere."""
    import torch

    torch.manual_seed(0)
    return torch.rand(1, *model.takes.shape, generator=torch.Generator().manual_seed(1))


def plain(output: Any) -> Any:
    """A model's output as torch.load takes it, which knows no class of ours."""
    return tuple(output) if isinstance(output, tuple) else output


def forward(model: Any) -> Any:
    """What a model gives when it is called."""
    import torch

    with torch.no_grad():
        return plain(model(sample(model)))


def outputs(model: Any) -> dict[str, Any]:
    """What a model gives by each of its capabilities."""
    import torch

    from zoo import hub
    from zoo.nn import protocols as can

    got: dict[str, Any] = {"forward": forward(model)}
    x = sample(model)
    with torch.no_grad():
        if isinstance(model, can.HasFeatures):
            got["features"] = model.forward_features(x)
        if isinstance(model, can.FillsIn):
            got["filled in"] = plain(model.reconstruct(x))
        if isinstance(model, can.Reconstructs):
            kept = model.encode(x)
            got |= {"encode": kept, "decode": model.decode(kept), "reconstruct": model.reconstruct(x)}
        if isinstance(model, can.HasLatents):
            got["normalised"] = model.normalise(kept)
            got["denormalised"] = model.denormalise(got["normalised"])
        if isinstance(model, can.Samples):
            few = {"steps": 2} if "steps" in inspect.signature(model.sample).parameters else {}
            got["sample"] = model.sample(torch.tensor([0]), generator=torch.Generator().manual_seed(1), **few)
        if isinstance(model, can.Classifies):
            hub.reset_head(model, 3)
            got["other classes"] = model(x)
    return got


def told(call: Callable[[], Any]) -> str:
    """What an error says of a package that is not there, or what a verb prints of it."""
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            call()
        except ModuleNotFoundError as error:
            return str(error)
    return printed.getvalue()


def from_checkout() -> dict[str, Any]:
    import torch

    import zoo
    from zoo import cli, registry

    model = zoo.load("bilinear_d256.mnist")
    needy: dict[str, Callable[[], Any]] = {
        "preprocess": lambda: model.preprocess(torch.zeros(1, 28, 28, dtype=torch.uint8)),
        **{name: lambda name=name: getattr(zoo, name) for name in ("transform", "ImageData", "LitAutoencoder")},
        **{verb: lambda verb=verb: cli.main(verb.split()) for verb in ("fit bilinear/smoke", "cache ls")},
    }
    with tempfile.TemporaryDirectory() as folder:
        saved = zoo.load(str(zoo.save(model, Path(folder)))).state_dict()
    found: dict[str, Any] = {"saved": dict(saved), "told": {what: told(call) for what, call in needy.items()}}
    return found | {name: outputs(zoo.load(name)) for name, record in registry.records().items() if record.embedded}


def from_archive(archive: str) -> dict[str, Any]:
    import torch

    def download(url: str, place: str, **_: Any) -> None:
        shutil.copy(archive, place)

    torch.hub.download_url_to_file = download
    repo, how = "latentzoo/zoo:main", {"skip_validation": True, "trust_repo": True}
    listed = torch.hub.list(repo, **how)
    found: dict[str, Any] = {"list": listed, "help": torch.hub.help(repo, "bilinear_d256", **how)}
    from zoo import registry

    assert Path(registry.__file__).is_relative_to(torch.hub.get_dir())
    for record in registry.records().values():
        if record.embedded and record.folder:
            model = torch.hub.load(repo, record.arch, weights=record.tag, **how)
            found[record.name] = forward(model.eval())
    return found


if __name__ == "__main__":
    paths, file, *archive = sys.argv[1:]
    sys.path += json.loads(paths)
    sys.meta_path = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
    import torch

    torch.save(from_archive(*archive) if archive else from_checkout(), file)
    assert "numpy" not in sys.modules
