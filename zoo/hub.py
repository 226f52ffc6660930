"""Checkpoint folders in and out: this disk, the Hugging Face Hub, torch.hub.

A checkpoint is a folder of `config.json`, `model.safetensors` and `README.md`. It is loaded strictly and hashed, or
refused with the first thing that is wrong.
"""

import argparse
import contextlib
import errno
import hashlib
import importlib
import inspect
import json
import os
import reprlib
import sys
import typing
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo import registry
from zoo.layers import check_types
from zoo.registry import Weights

CHECKPOINTS = Path(__file__).parent / "checkpoints"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
DIFFUSERS = "diffusion_pytorch_model.safetensors"
LARGEST = 2**24  # integer among the arguments of a model; no arch has one above 2^14
CALLS = 50_000  # of torch, while a model is made; the deepest arch needs 4,489
CONFIG_BYTES = 2**24  # a thousand class names are 20 kB
EXPORTS = ("safetensors", "timm", "diffusers", "onnx")
SHAPES: ContextVar[bool] = ContextVar("SHAPES", default=False)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk says


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, `create` and `load` read no tensors and fetch none, whatever weights are named: all are random."""
    token = SHAPES.set(True)
    try:
        yield
    finally:
        SHAPES.reset(token)


# The doors


def create(arch: str, weights: str | None = None, **args: Any) -> nn.Module:
    """A model by name, in train mode: random, or strictly loaded.

    Args:
        arch: name of an arch, `zoo.list_models()` lists them.
        weights: a tag of that arch ("mnist"), a checkpoint folder, a run, or "hf://org/name@revision"; None is random.
            A classifier also starts from its autoencoder ("mae_vit_tiny.cifar10"): the encoder is taken, all of it,
            and the head is new.
        args: keywords of the arch; with weights, they go on top of those the weights were made with.

    Raises:
        ValueError: unknown arch, tag or keyword; weights that do not fit the arch to the last tensor.
    """
    family = registry.family_of(arch)
    planned = weights is not None and SHAPES.get() and _is_place(weights) and not Path(weights).exists()
    if weights is None or planned:
        return build(arch, args)
    source = _open(_full_name(arch, weights))
    given = source.config["arch"]
    if given == arch:
        return _fill(source, args)
    if given not in registry.facts(family).STARTS.get(arch, ()):
        raise ValueError(f"{weights} holds {given}, not {arch}; zoo.load({weights!r}) takes what is there")
    shared = {k: v for k, v in source.config["args"].items() if k in keywords(arch)}
    _refuse_other_baked(source, args, arch)
    model = build(arch, shared | args)
    if not SHAPES.get():
        model.start_from(source.state)
    model.zoo_config["parent"] = source.config.get("name", weights)
    return model


def load(name: str, **args: Any) -> nn.Module:
    """A trained model, in eval mode.

    Args:
        name: "arch.tag", a checkpoint folder, "hf://org/name@revision", a Lightning checkpoint, a run's directory
            (its best checkpoint, else its last), or the folder of a recipe's runs (the newest).
        args: keywords of the arch, on top of those the weights were made with.

    Raises:
        ValueError: unknown name; a file that is damaged, of another arch or of another format.
        FileNotFoundError: no such folder, repository or revision.
        ConnectionError: the Hub cannot be reached and the cache does not hold the files.
    """
    return _fill(_open(name), args).eval()


def build(arch: str, args: Mapping[str, Any]) -> nn.Module:
    """A random model of an arch, with `zoo_config` saying how to make it again.

    Raises:
        ValueError: a keyword that the arch does not take, or a value that makes no model of it.
    """
    allowed = keywords(arch)
    for key in args:
        if key not in allowed:
            raise ValueError(f"{arch} takes no {key!r}{registry.suggest(key, allowed)}; it takes {', '.join(allowed)}")
        if any(isinstance(n, int) and abs(n) > LARGEST for n in _numbers(args[key])):
            raise ValueError(f"{arch} takes no {key}={reprlib.repr(args[key])}; expected at most {LARGEST:,}")
    check_types(_model_class(arch), args, arch)
    try:
        with Limit(CALLS, "it has too many layers"):
            model = _builder(arch)(**args)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"no {arch} can be made with {reprlib.repr(dict(args))}: {said}; change these") from error
    model.zoo_config = {"arch": arch, "args": dict(args)}
    return model


def reset_head(model: nn.Module, num_classes: int) -> None:
    """A new random head, and the class names of the old one forgotten."""
    model.reset_head(num_classes)
    model.zoo_config["args"]["num_classes"] = num_classes
    model.zoo_config.pop("classes", None)


def save(model: nn.Module, folder: str | Path, metrics: tuple[registry.Metric, ...] = ()) -> Path:
    """Write a model that `create` or `load` made as a checkpoint folder.

    Each file is written aside and renamed, `config.json` last: what was there before survives a full disk.

    Raises:
        ValueError: the model did not come from the zoo.
        OSError: the folder cannot be written; an earlier checkpoint in it is untouched.
    """
    from zoo.card import folder_card

    if not hasattr(model, "zoo_config"):
        raise ValueError(f"this {type(model).__name__} does not know its arch; make it with zoo.create(arch, …)")
    folder = Path(folder)
    state = {k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_aside(folder) as aside:
            save_file(state, aside(WEIGHTS), metadata={"format": "pt"})
            digest, size = hash_file(aside(WEIGHTS)), aside(WEIGHTS).stat().st_size
            config = folder_config(model) | {
                "metrics": [vars(m) for m in metrics],
                "weights": {"file": WEIGHTS, "sha256": digest, "size": size},
            }
            aside(CARD).write_text(folder_card(config), encoding="utf-8")
            aside(CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        if error.errno is None:  # write_aside has said it
            raise
        raise OSError(f"cannot write {folder}: {error}; nothing in it was changed, save to another folder") from error
    return folder


def export(ckpt: str | Path, folder: str | Path, to: str = "safetensors", half: bool = False) -> Path:
    """Turn a training run into something to give away.

    Args:
        ckpt: a Lightning checkpoint, or a run's directory (its best checkpoint, else its last), or a checkpoint
            folder or name for another format of it.
        folder: where to write.
        to: "safetensors", a checkpoint folder; "timm", a file timm loads; "diffusers", a folder its from_pretrained
            loads; "onnx", `model.onnx`.
        half: store parameters as float16, half the size; the model still computes in float32 once loaded.
    """
    if to not in EXPORTS:
        raise ValueError(f"to={to!r}{registry.suggest(to, EXPORTS)}; allowed {', '.join(EXPORTS)}")
    model = load(str(ckpt))
    if half:
        for parameter in model.parameters():
            parameter.data = parameter.data.half()
    if to == "safetensors":
        return save(model, folder, _run_metrics(Path(ckpt)))
    folder = Path(folder)
    if to == "onnx":
        return _export_onnx(model.eval(), folder)
    arch = model.zoo_config["arch"]
    convert = importlib.import_module(f"zoo.{registry.family_of(arch)}.convert")
    if not hasattr(convert, f"to_{to}"):
        allowed = [e for e in EXPORTS if e in ("safetensors", "onnx") or hasattr(convert, f"to_{e}")]
        raise ValueError(f"{to} has no twin of {arch}; allowed here: {', '.join(allowed)}")
    state, config = (convert.to_timm(model), None) if to == "timm" else convert.to_diffusers(model)
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(folder) as aside:
        state = {k: v.contiguous() for k, v in state.items()}
        save_file(state, aside(WEIGHTS if to == "timm" else DIFFUSERS), metadata={"format": "pt"})
        if config is not None:
            aside(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def push(folder: str | Path, repo: str, dry_run: str | Path | None = None) -> str:
    """Publish a checkpoint folder on the Hugging Face Hub in one commit; links that leave the folder are not followed.

    Args:
        folder: a checkpoint folder, or "arch.tag".
        repo: "org/name"; a bare name goes under `$ZOO_HUB_ORG`, by default latentzoo.
        dry_run: write exactly what would be pushed into this folder instead.

    Returns:
        The commit's sha, or the folder of the dry run.
    """
    given = _is_place(str(folder))
    source = Path(folder) if given else embedded_folder(registry.weights_info(str(folder)))
    files = [source / f for f in (CONFIG, WEIGHTS, CARD)]
    for file in files if given else ():
        if not file.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"{file} is a link to {file.resolve()}, only files of the folder are published; if all may see that "
                "one, put a copy in the link's place"
            )
    load(str(source))  # what does not load is not published
    if not files[2].is_file():
        raise FileNotFoundError(f"{source} has no {CARD}; write it again with zoo.save")
    if dry_run is not None:
        Path(dry_run).mkdir(parents=True, exist_ok=True)
        with write_aside(Path(dry_run)) as aside:
            for file in files:
                aside(file.name).write_bytes(file.read_bytes())
        return str(dry_run)
    import huggingface_hub as hf

    repo = repo if "/" in repo else f"{os.environ.get('ZOO_HUB_ORG', 'latentzoo')}/{repo}"
    api = hf.HfApi()
    api.create_repo(repo, exist_ok=True)
    commit = api.create_commit(
        repo,
        [hf.CommitOperationAdd(file.name, str(file)) for file in files],
        commit_message=f"{read_config(source)['arch']} from latentzoo",
    )
    return commit.oid


def verify(name: str) -> dict[str, Any]:
    """Hash the file, load it strictly, and compare the golden outputs of its record.

    Raises:
        ValueError: what does not hold.
    """
    model = load(name)
    result: dict[str, Any] = {"name": name, "sha256": "ok", "strict": "ok"}
    golden = registry.records()[name].golden if name in registry.records() else ()
    if golden:
        found = golden_output(model)
        if not torch.allclose(found, torch.tensor(golden), rtol=1e-4, atol=1e-4):
            raise ValueError(f"{name} gives {found.tolist()} on the golden input, its record says {list(golden)}")
        result["golden"] = "ok"
    return result


@torch.no_grad()
def golden_output(model: nn.Module) -> Tensor:
    """The first eight outputs for a fixed picture of waves: the model's fingerprint on any machine.

    Of a model with several outputs, the floating-point ones in a row; what it draws at random is seeded.
    """
    count = torch.Size(model.input_shape).numel()
    image = torch.arange(count, dtype=torch.float64).mul(0.37).sin().add(1).div(2).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = model.eval()(image.reshape(1, *model.input_shape))
    outputs = [out] if isinstance(out, Tensor) else [o for o in out if isinstance(o, Tensor) and o.is_floating_point()]
    return torch.cat([o.flatten()[:8] for o in outputs])[:8]


# Loading


def _is_place(name: str) -> bool:
    return name.startswith("hf://") or os.sep in name or "/" in name or name.endswith(".ckpt") or Path(name).is_dir()


class Source(NamedTuple):
    """A checkpoint that was found, checked and mapped, not yet in a model."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    place: Path


def _full_name(arch: str, weights: str) -> str:
    """What `weights` means beside an arch; a tag wins over a folder of the same name beside the user."""
    if f"{arch}.{weights}" in registry.records():
        return f"{arch}.{weights}"
    named = weights.partition(".")[0] in registry.archs()
    return weights if _is_place(weights) or named else f"{arch}.{weights}"


def _open(name: str) -> Source:
    path = Path(name)
    if name in registry.records() or not _is_place(name):
        return _open_record(registry.weights_info(name))
    if not (path / CONFIG).is_file() and not (path / "checkpoints").is_dir():
        path = max(path.glob("*/checkpoints"), default=path / "checkpoints").parent  # the newest of a recipe's runs
    if path.suffix == ".ckpt" or (path / "checkpoints").is_dir():
        return _open_lightning(path if path.suffix == ".ckpt" else _pick_checkpoint(path))
    folder, fetch = _hub_folder(name) if name.startswith("hf://") else (path, None)
    config = read_config(folder)
    expected = config["weights"]
    if SHAPES.get():
        return Source(config, {}, folder)
    file = fetch(expected["file"]) if fetch else folder / expected["file"]
    return Source(config, read_tensors(file, expected["sha256"], expected["size"]), file)


def _open_record(record: Weights) -> Source:
    _say_terms(record.name)
    config = {"arch": record.arch, "args": record.args, "classes": list(record.classes), "name": record.name}
    if SHAPES.get():
        return Source(config, {}, Path(record.name))
    if record.embedded:
        file = embedded_folder(record) / record.file
    elif record.url:
        file = _download_url(record.url)
    else:
        file = _download(record.repo, record.file, record.revision)
    if not record.foreign:
        return Source(config, read_tensors(file, record.sha256, record.size), file)
    from zoo.foreign import read_state, translate, unwrap

    _check_foreign(file, record)
    tensors = unwrap(read_state(file))
    if record.beside:
        tensors |= read_state(_download(record.repo, record.beside, record.revision))
    state, _ = translate(tensors, record.arch, record.args)
    return Source(config, state, file)


def _open_lightning(file: Path) -> Source:
    checkpoint = read_checkpoint(file)
    if not isinstance(checkpoint, dict) or not {"zoo", "state_dict"} <= checkpoint.keys():
        raise ValueError(f"{file} was not written by a LightningModule of this zoo; `zoo convert` reads foreign files")
    try:
        _check_made(checkpoint["zoo"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} does not say how its model is made ({error}); train it again") from error
    tensors = plain_tensors(checkpoint["state_dict"], file)
    averaged = "average.module."  # a moving average is what was evaluated
    prefix = averaged if any(k.startswith(averaged) for k in tensors) else "model."
    return Source(
        checkpoint["zoo"], {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, file
    )


def _fill(source: Source, args: Mapping[str, Any]) -> nn.Module:
    """A model with every tensor of a source."""
    config = source.config
    _refuse_other_baked(source, args, config["arch"])
    if SHAPES.get():
        return build(config["arch"], config["args"] | dict(args))
    with torch.device("meta"):  # no memory, no random numbers: every tensor comes from the file
        model = build_for(source.state, source.place, config["arch"], config["args"] | dict(args))
    load_strictly(model, source.state, source.place)
    model.zoo_config |= {k: config[k] for k in ("classes", "name", "parent") if config.get(k)}
    return model


def _refuse_other_baked(source: Source, args: Mapping[str, Any], arch: str) -> None:
    """What training has fixed is not to be had otherwise by asking for it."""
    made = inspect.signature(_model_class(source.config["arch"])).parameters
    for key in getattr(_model_class(arch), "baked", ()):
        if key not in args or key not in made:
            continue
        trained = source.config["args"].get(key, made[key].default)
        if _plain(trained) != _plain(args[key]):
            raise ValueError(
                f"{source.place} was trained with {key}={trained!r}, not {args[key]!r}; leave {key} out to take it as "
                "it was trained, or choose other weights with `zoo ls --pretrained`"
            )


class Limit(TorchFunctionMode):
    """Torch stops after so many calls in this thread: a config can ask for a billion layers."""

    def __init__(self, calls: int, said: str):
        super().__init__()
        self.calls, self.said = calls, said

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError(self.said)
        return func(*args, **(kwargs or {}))


def build_for(state: Mapping[str, Tensor], source: object, arch: str, args: Mapping[str, Any]) -> nn.Module:
    """A model that is about to get the tensors of a file, at a cost in proportion to that file.

    Raises:
        ValueError: arguments that ask for far more than the file can hold.
    """
    most = max(2**20, sum(v.numel() for v in state.values()))
    for key, value in args.items():
        if any(abs(n) > most for n in _numbers(value)):
            raise ValueError(f"{source} holds {len(state)} tensors, too few for {key}={reprlib.repr(value)} of {arch}")
    try:
        with Limit(10_000 + 100 * len(state), "it has far more tensors than the file"):
            return build(arch, args)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers in a value out of JSON."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _numbers(v)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _builder(arch: str) -> Callable[..., nn.Module]:
    return getattr(importlib.import_module(f"zoo.{registry.family_of(arch)}.model"), arch)


def _model_class(arch: str) -> type[nn.Module]:
    return typing.get_type_hints(_builder(arch))["return"]


def keywords(arch: str) -> list[str]:
    """What the builder of an arch takes."""
    return list(inspect.signature(_model_class(arch)).parameters)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Give a model every tensor of `state`, in its own dtype, or name what does not fit.

    A model with a method `adapt` first makes over what follows from its arguments alone, such as a position table.
    """
    own = model.state_dict()
    try:
        state = model.adapt(dict(state)) if hasattr(model, "adapt") else state
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:  # a position table of no grid
        said = str(error).partition("\n")[0]
        raise ValueError(f"{source} does not fit {model.zoo_config['arch']}: {said}; nothing was loaded") from error
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    misshapen = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or unexpected or misshapen:
        found = []
        if missing:
            found.append(f"{len(missing)} missing ({missing[0]} first)")
        if unexpected:
            found.append(f"{len(unexpected)} unexpected ({unexpected[0]} first)")
        if misshapen:
            k = misshapen[0]
            found.append(f"{len(misshapen)} misshapen ({k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)})")
        raise ValueError(
            f"{source} does not fit {model.zoo_config['arch']} with {model.zoo_config['args']}: {', '.join(found)}; "
            "nothing was loaded. Load it as what it is, or convert it with `zoo convert`"
        )
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=True, assign=True)


def read_tensors(file: Path, sha256: str, size: int) -> dict[str, Tensor]:
    """Map a safetensors file and hash it at the same time; nothing is returned unless the hash is right."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; the checkpoint is a folder of {CONFIG}, {WEIGHTS} and {CARD}")
    with open(file, "rb") as f:
        head = f.read(2)
    if head in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise ValueError(
            f"{file} is a pickle, not safetensors; it was not opened. `zoo convert` reads such files safely"
        )
    found = file.stat().st_size
    if found != size:
        raise ValueError(f"{file} has {found:,} bytes of {size:,}: it is cut or changed; {_again(file)}")
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(hash_file, file)
        try:
            state = read_safetensors(file)
        except ValueError as error:
            raise ValueError(f"{error}; {_again(file)}") from error
        if digest.result() != sha256:
            raise ValueError(f"{file} has sha256 {digest.result()[:12]}…, expected {sha256[:12]}…; {_again(file)}")
    return state


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped.

    Raises:
        ValueError: it is none, or holds what torch has no type for.
    """
    try:
        with safe_open(file, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118, not a dict
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {file}") from None
    except Exception as error:  # the library has several of its own, and torch's
        raise ValueError(f"{file} is not safetensors ({str(error).partition(chr(10))[0]})") from error


def plain_tensors(state: Any, source: object) -> dict[str, Tensor]:
    """The tensors of a state dict out of a torch file.

    Raises:
        ValueError: no state dict, or a tensor that is not simply its own memory.
    """
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        raise ValueError(f"{source} holds no state dict; give one, names to tensors")
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    for name, v in tensors.items():
        whole = v.layout == torch.strided and v.device.type == "cpu" and not v.is_quantized
        if not whole or v.numel() * v.element_size() > v.untyped_storage().nbytes():
            raise ValueError(f"{source}: {name} {tuple(v.shape)} is more than the file holds of it; save it contiguous")
    return tensors


def _again(file: Path) -> str:
    where = file.parent if "snapshots" not in file.parts else file.resolve()
    return f"delete {where} and get it again"


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder, checked."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; give a checkpoint folder, hf://org/name, or a name that `zoo ls` shows"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG}, so it is no checkpoint; `zoo export` and `zoo convert` make one"
        )
    try:
        config = read_json(path)
        _check_made(config)
        file, sha256, size = (config["weights"][key] for key in ("file", "sha256", "size"))
        if not (isinstance(file, str) and isinstance(sha256, str) and isinstance(size, int)):
            raise TypeError("weights.file, sha256 or size is of the wrong type")
    except (ValueError, KeyError, TypeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is not a checkpoint's config ({said}); it needs arch, args, and weights with file, sha256, size"
        ) from error
    if file != os.path.basename(file) or file in ("", ".", "..") or "\\" in file:
        raise ValueError(f"{path} names {file!r}, outside its folder; a checkpoint holds its own weights")
    return config


def read_json(path: Path) -> Any:
    """What a small JSON file says.

    Raises:
        ValueError: it is not JSON, too deep or too long.
    """
    if path.stat().st_size > CONFIG_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, a config up to {CONFIG_BYTES:,}")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _check_made(config: Any) -> None:
    """That a config says how to make a model; KeyError, TypeError or ValueError otherwise."""
    if not (isinstance(config, dict) and isinstance(config["arch"], str) and isinstance(config["args"], dict)):
        raise TypeError("arch or args is of the wrong type")
    registry.family_of(config["arch"])
    classes = config.get("classes") or []
    if not (isinstance(classes, list | tuple) and all(isinstance(c, str) for c in [*classes, *config["args"]])):
        raise TypeError("classes are no list of names")
    if not all(isinstance(config.get(key) or "", str) for key in ("name", "parent")):
        raise TypeError("name or parent is of the wrong type")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are each there once; readers differ in which of two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def folder_config(model: nn.Module) -> dict[str, Any]:
    """What config.json says of a model: how to build it and what users get wrong."""
    from zoo import __version__

    named = {"mean": "mean", "std": "std", "target": "target_kind", "pool": "pool"}
    known = {key: getattr(model, name) for key, name in named.items() if hasattr(model, name)}
    return {
        "library": "latentzoo",
        "version": __version__,
        **model.zoo_config,
        **{k: v.float().flatten().tolist() if isinstance(v, Tensor) else v for k, v in known.items()},
        "input": {
            "shape": list(model.input_shape),
            "layout": "B F C H W" if len(model.input_shape) == 4 else "B C H W",
            **({"of": model.takes} if hasattr(model, "takes") else {"range": [0, 1], "normalised_inside": True}),
        },
    }


def embedded_folder(record: Weights) -> Path:
    """Where weights that ship with the package lie."""
    return CHECKPOINTS / record.name


@cache
def _say_terms(name: str) -> None:
    """Once per process, for weights that are not free to use."""
    record = registry.weights_info(name)
    if not record.permissive:
        warnings.warn(f"{record.name} is under {record.licence}; data: {record.data_terms}", stacklevel=4)


# The Hugging Face Hub


def _hub_folder(name: str) -> tuple[Path, Callable[[str], Path]]:
    """The folder of a repository's config.json in the cache, and how to fetch its other files at the same commit."""
    repo, _, revision = name.removeprefix("hf://").partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"{name!r} is not hf://org/name or hf://org/name@revision")
    if revision and not all(part.strip(".") for part in revision.replace("\\", "/").split("/")):
        raise ValueError(f"{name!r} has no revision {revision!r}; give a branch, a tag or a commit")
    config = _download(repo, CONFIG, revision or None)
    return config.parent, lambda file: _download(repo, file, config.parent.name)


def _download(repo: str, file: str, revision: str | None) -> Path:
    """A file of a Hub repository, cached; honours HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN."""
    import huggingface_hub as hf
    from huggingface_hub import errors

    at = f"{repo}@{revision}" if revision else repo
    try:
        return Path(hf.hf_hub_download(repo, file, revision=revision, library_name="latentzoo"))
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"hf://{repo} has no revision {revision!r}; leave it out for the newest") from error
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"hf://{at} {file} is not in the cache and the Hub cannot be reached (HF_HUB_OFFLINE="
            f"{os.environ.get('HF_HUB_OFFLINE', '0')}, HF_ENDPOINT={hf.constants.ENDPOINT}); load it once online, "
            "or take weights that ship with the package: `zoo ls --pretrained`"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"hf://{at} has no {file}, so it is no checkpoint of this zoo; see `zoo convert`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no repository or revision hf://{at}, or it is private and HF_TOKEN does not open it"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"hf://{at} is not a valid repository name: {error}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"could not get {file} of hf://{at}: {error}; try again, what was fetched is kept"
        ) from error


def _download_url(url: str) -> Path:
    """A file from a publisher's own server, kept where torch.hub keeps such files (TORCH_HOME)."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except OSError as error:
        raise ConnectionError(
            f"{url} is not in {path.parent} and could not be downloaded ({error}); connect once, or put the file there"
        ) from error
    return path


def _check_foreign(file: Path, record: Weights) -> None:
    """Hash somebody else's file against what its publisher states, as far as that goes, and say where it does not."""
    if record.sha256:
        digest, stated = hash_file(file), record.sha256
    elif record.md5:
        digest, stated = hash_file(file, "md5"), record.md5
    else:
        warnings.warn(
            f"the publisher of {record.name} states no hash; this file's sha256 is {hash_file(file)}, compare it with "
            "a colleague's",
            stacklevel=5,
        )
        return
    if not digest.startswith(stated):
        raise ValueError(f"{file} has hash {digest[:12]}…, its publisher states {stated[:12]}…; {_again(file)}")


# Lightning checkpoints, ONNX


# Old versions of Lightning file what a callback remembers under its class: an empty one of that name stands in for it.
CALLBACK = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})


def read_pickle(file: Path) -> Any:
    """A torch file of tensors and plain containers, argparse's Namespace among them: nothing in it can run.

    Raises:
        ValueError: it is no torch file, is cut, or asks for something to be run.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                _refuse_compressed(archive)
        with torch.serialization.safe_globals([argparse.Namespace, CALLBACK]):  # official checkpoints hold both
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is not a file of plain tensors ({reason}); it was not loaded") from error


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A Lightning checkpoint of this zoo, whole: torch keeps a sum of each tensor's bytes and never looks at it again.

    Raises:
        ValueError: as `read_pickle`, or a byte in it changed since it was written.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    try:
        with zipfile.ZipFile(file) as archive:
            _refuse_compressed(archive)
            changed = archive.testzip()
    except Exception as error:  # whatever a changed byte makes zipfile stumble over
        raise ValueError(f"{file} is damaged or no checkpoint ({error})") from error
    if changed is not None:
        raise ValueError(f"{file} is damaged: {changed} is not what was written")
    return read_pickle(file)


def _refuse_compressed(archive: zipfile.ZipFile) -> None:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which torch never does: it may unfold to any size")


def _pick_checkpoint(run: Path) -> Path:
    """The best checkpoint of a run, else its last."""
    files = sorted((run / "checkpoints").glob("best*.ckpt")) or sorted((run / "checkpoints").glob("last*.ckpt"))
    if not files:
        raise FileNotFoundError(f"{run}/checkpoints holds neither best*.ckpt nor last.ckpt; the run saved nothing yet")
    return files[-1]


def _run_metrics(run: Path) -> tuple[registry.Metric, ...]:
    if not (run / "metrics.json").is_file():
        return ()
    found = json.loads((run / "metrics.json").read_text())
    data = found.get("data", "?")
    return tuple(
        registry.Metric(name, value, "", data, f"`zoo fit`, {found.get('recipe', '?')}, seed {found.get('seed', '?')}")
        for name, value in found.get("metrics", {}).items()
        if name.startswith("test/")
    )


class _Features(nn.Module):
    """A model whose `forward` is a training step, as a map from images to features."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.forward_features(image)


def _export_onnx(model: nn.Module, folder: Path) -> Path:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError("ONNX needs the packages onnx and onnxscript; pip install 'latentzoo[onnx]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    image = torch.zeros(2, *model.input_shape)
    with write_aside(folder) as aside:
        torch.onnx.export(
            model if hasattr(model, "head") else _Features(model),
            (image,),
            aside("model.onnx"),
            input_names=["image"],
            output_names=["output"],
            dynamic_shapes=[{0: torch.export.Dim("batch")}],
            external_data=False,
            verbose=False,
        )
    return folder


# Files


@contextlib.contextmanager
def write_aside(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Give out temporary names in `folder`; rename them all, in that order, once everything is written and synced.

    Raises:
        OSError: the disk is full; what was there before is untouched.
    """
    names: list[str] = []

    def aside(name: str) -> Path:
        path = folder / f".{name}.{os.getpid()}.part"
        if name not in names:
            names.append(name)
            path.unlink(missing_ok=True)  # a link of that name would lead out of the folder
        return path

    try:
        yield aside
        for name in names:
            with open(aside(name), "rb") as f:
                os.fsync(f.fileno())
        for name in names:
            os.replace(aside(name), folder / name)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", errno.ENOSPC) not in FULL:
            raise
        raise OSError(f"cannot write {folder}: {error}; nothing in it was changed, save to another folder") from error
    finally:
        for name in names:
            aside(name).unlink(missing_ok=True)


def fingerprint(model: nn.Module) -> str:
    """The sha256, in hex, of a model's tensors and their names, wherever they were stored; "" of mere shapes."""
    if SHAPES.get():
        return ""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_file(file: Path, kind: str = "sha256") -> str:
    """A file's hash, in hex."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, kind).hexdigest()
