"""Models out: checkpoint folders, other formats, the Hugging Face Hub, and whether what is there is whole."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo import registry
from zoo.hub import runs
from zoo.hub.card import PLACEHOLDER, describe_input, folder_card
from zoo.hub.card import licence as known_licence
from zoo.hub.doors import load
from zoo.hub.files import CARD, CONFIG, PICTURE, WEIGHTS, hash_file, read_config, write_aside, write_safetensors
from zoo.hub.make import TORCHS, build, fill, misfits
from zoo.hub.places import embedded_folder, is_place, open_source
from zoo.nn.frozen import Frozen
from zoo.nn.protocols import Classifies, HasFeatures, HasLatents, Network, Reconstructs
from zoo.recipe import newest_run

DIFFUSERS = "diffusion_pytorch_model.safetensors"
EXPORTS = ("safetensors", "timm", "diffusers", "onnx")
INSTEAD = "export it as safetensors, which holds every model"


def save(model: nn.Module, folder: str | Path, metrics: tuple[registry.Metric, ...] = ()) -> Path:
    """Write a model that `create` or `load` made as a checkpoint folder.

    Each file is written aside and renamed, `config.json` last: what was there before survives a full disk. Compiled
    models are written as what was compiled. Places of this machine are left out.

    Raises:
        ValueError: the model did not come from the zoo, is no longer what its arch and arguments build, has NaN, or
            names of other classes than it has.
        OSError: the folder cannot be written; an earlier checkpoint in it is untouched.
    """
    return _save(model, Path(folder), {"metrics": [registry.plain(m) for m in metrics]})


def _save(model: nn.Module, folder: Path, more: dict[str, Any]) -> Path:
    """As `save`, with more to tell in config.json."""
    made = _made_here(model)
    state = _loadable(made)
    _check_names(made)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_aside(folder) as aside:
            write_safetensors(state, aside(WEIGHTS))
            digest, size = hash_file(aside(WEIGHTS)), aside(WEIGHTS).stat().st_size
            weights = {"file": WEIGHTS, "sha256": digest, "size": size}
            config = folder_config(made) | more | {"weights": weights}
            aside(CARD).write_text(folder_card(config), encoding="utf-8")
            aside(CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        if error.errno is None:  # write_aside has said it
            raise
        raise OSError(f"cannot write {folder}: {error}; nothing in it was changed, save to another folder") from error
    return folder


def export(
    ckpt: str | Path, folder: str | Path, to: str = "safetensors", half: bool = False, licence: str | None = None
) -> Path:
    """Turn a training run into something to give away.

    Args:
        ckpt: a Lightning checkpoint, or a run's directory (its best checkpoint, else its last), or a checkpoint
            folder or name for another format of it.
        folder: where to write.
        to: "safetensors", a checkpoint folder; "timm", a file timm loads; "diffusers", a folder its from_pretrained
            loads; "onnx", `model.onnx` of a classifier's logits, an autoencoder's latents, or features, for any batch.
        half: store parameters as float16, half the size; the model still computes in float32 once loaded.
        licence: of the weights, SPDX's identifier or the Hub's, which the card of a checkpoint folder states; None
            leaves it unknown.
    """
    if to not in EXPORTS:
        raise ValueError(f"to={to!r}{registry.suggest(to, EXPORTS)}; allowed {', '.join(EXPORTS)}")
    if licence is not None and to != "safetensors":
        raise ValueError(f"licence={licence}: {to} has no card to state it in; leave it out")
    stated = {} if licence is None else {"licence": _allowed(licence)}
    model = load(str(ckpt))
    if half:
        for parameter in model.parameters():
            parameter.data = parameter.data.half()
    if to == "safetensors":
        return _save(model, Path(folder), runs.told(Path(ckpt), model) | stated)
    folder = Path(folder)
    if to == "onnx":
        return _export_onnx(model.eval(), folder)
    arch = model.zoo_config["arch"]
    convert = registry.home(arch).part("convert")
    if not hasattr(convert, f"to_{to}"):
        allowed = [e for e in EXPORTS if e in ("safetensors", "onnx") or hasattr(convert, f"to_{e}")]
        raise ValueError(f"{to} has no twin of {arch}; allowed here: {', '.join(allowed)}")
    to_other = getattr(convert, f"to_{to}")
    state, config = (to_other(model), None) if to == "timm" else to_other(model)
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(folder) as aside:
        write_safetensors(state, aside(WEIGHTS if to == "timm" else DIFFUSERS))
        if config is not None:
            aside(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def push(folder: str | Path, repo: str, dry_run: str | Path | None = None, licence: str | None = None) -> str:
    """Publish weights on the Hugging Face Hub in one commit; links that leave their folder are not followed.

    Args:
        folder: a checkpoint folder, a run or a Lightning checkpoint of it, which is exported first, or "arch.tag".
        repo: "org/name"; a bare name goes under `$ZOO_HUB_ORG`, by default latentzoo.
        dry_run: write exactly what would be pushed into this folder instead.
        licence: of the weights, SPDX's identifier or the Hub's; None leaves what the folder states, or unknown.

    Returns:
        The commit's sha, or the folder of the dry run.

    Raises:
        ValueError: no such licence or repository name; weights that do not load, name other classes than they have,
            need something which lies on this machine alone, or whose card tells of a place on it.
        ConnectionError: the Hub cannot be reached, or does not take it.
    """
    import huggingface_hub as hf
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo = repo.removeprefix("hf://")
    repo = repo if "/" in repo else f"{os.environ.get('ZOO_HUB_ORG', 'latentzoo')}/{repo}"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no name of a repository; give ORG/NAME") from error
    stated = {} if licence is None else {"licence": _allowed(licence)}
    with tempfile.TemporaryDirectory() as made:
        source = _pushed(folder, Path(made) / "exported")
        _check_names(load(str(source)))  # what does not load, or answers no `zoo predict`, is not published
        config = read_config(source)
        files: dict[str, Path | bytes] = {WEIGHTS: source / WEIGHTS}
        files |= {PICTURE: source / PICTURE} if config.get("picture") == PICTURE else {}
        if config | stated != config:
            files[CONFIG] = (json.dumps(config | stated, indent=2, ensure_ascii=False) + "\n").encode()
        else:
            files[CONFIG] = source / CONFIG
        files[CARD] = _published_card(source, repo, licence).encode()
        refuse_private(config, files)
        if dry_run is not None:
            Path(dry_run).mkdir(parents=True, exist_ok=True)
            with write_aside(Path(dry_run)) as aside:
                for name, content in files.items():
                    aside(name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            return str(dry_run)
        api = hf.HfApi()
        try:
            api.create_repo(repo, exist_ok=True)
            commit = api.create_commit(
                repo,
                [hf.CommitOperationAdd(k, v if isinstance(v, bytes) else str(v)) for k, v in files.items()],
                commit_message=f"{config['arch']} from latentzoo",
            )
        except Exception as error:  # of whichever client of the network the Hub's library has
            raise ConnectionError(
                f"{repo} was not pushed to {hf.constants.ENDPOINT} ({' '.join(str(error).split())}); mend the "
                "connection, HF_ENDPOINT or HF_TOKEN and push again, or give -o FOLDER to write it there"
            ) from error
        return commit.oid


def _allowed(licence: str) -> str:
    """The identifier of a licence, as it was given.

    Raises:
        ValueError: nobody knows it.
    """
    known_licence(licence)
    return licence


def _pushed(given: str | Path, made: Path) -> Path:
    """The checkpoint folder of what is to be published; of a run, one that is made."""
    source = Path(given)
    if not is_place(str(given)):
        record = registry.weights_info(str(given))
        if not record.embedded:
            raise ValueError(f"{given} is not ours to publish: its publisher has it at {record.repo or record.url}")
        return embedded_folder(record)
    if str(given).startswith("hf://"):
        raise ValueError(f"{given} is on the Hub already; give a run, a checkpoint folder or a name")
    if newest_run(source) is not None or source.suffix == ".ckpt":
        return export(source, made)
    for file in (source / f for f in (CONFIG, WEIGHTS, CARD, PICTURE)):
        if not file.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"{file} is a link to {file.resolve()}, only files of the folder are published; if all may see that "
                "one, put a copy in the link's place"
            )
    return source


def _published_card(source: Path, repo: str, licence: str | None) -> str:
    """The card as it lies in the folder, whoever wrote it, with the repository's name and a licence."""
    import huggingface_hub as hf

    if not (source / CARD).is_file():
        raise FileNotFoundError(f"{source} has no {CARD}; write it again: zoo export {source} -o FOLDER")
    text = (source / CARD).read_text(encoding="utf-8").replace(PLACEHOLDER, f"hf://{repo}")
    card = hf.ModelCard(text, ignore_metadata_errors=True)
    if licence is None and card.data.get("license"):
        return text
    for key, value in known_licence(licence or "unknown").items():
        card.data[key] = value
    return str(card)


def refuse_private(config: dict[str, Any], files: Mapping[str, Path | bytes]) -> None:
    """Raise where what is to be published needs a place of this machine, or tells of one."""
    for key, value in config["args"].items():
        if isinstance(value, str) and is_place(value) and Path(value).exists():
            raise ValueError(
                f"{config['arch']} needs its {key}, {value}, which nobody else has; push that one first, put its "
                f"hf://ORG/NAME for {key} into config.json of this one's folder (zoo export … -o FOLDER), and push that"
            )
    for name in (CONFIG, CARD):
        content = files[name]
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode()
        for place in re.findall(r"(?<![\w:/.~)\]-])(?:~|/[\w.-]+)(?:/[\w. -]*[\w-])+", text):
            if Path(place).expanduser().exists():
                raise ValueError(f"{name} tells of {place}, a place of this machine; mend it, or export the run again")


def verify(name: str) -> dict[str, Any]:
    """Hash the file, load it strictly, and compare the golden outputs of its record, wherever that lies.

    Raises:
        ValueError: what does not hold.
    """
    source = open_source(name)
    model = fill(source, {}).eval()
    result: dict[str, Any] = {"name": name, "sha256": "ok", "strict": "ok"}
    if golden := source.config.get("golden"):
        out = golden_output(model)
        expected = torch.tensor(golden, dtype=out.dtype)
        if out.shape != expected.shape or not torch.allclose(out, expected, rtol=1e-4, atol=1e-4):
            raise ValueError(f"{name} gives {out.tolist()} on the golden input, its record says {list(golden)}")
        result["golden"] = "ok"
    return result


@torch.no_grad()
def golden_output(model: Network) -> Tensor:
    """The first eight outputs for a fixed sample of waves: the model's fingerprint on any machine.

    Of a model with several outputs, the floating-point ones in a row; what it draws at random is seeded.
    """
    count = torch.Size(model.takes.shape).numel()
    waves = torch.arange(count, dtype=torch.float64).mul(0.37).sin().add(1).div(2).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = model.eval()(waves.reshape(1, *model.takes.shape))
    outputs = [out] if isinstance(out, Tensor) else [o for o in out if isinstance(o, Tensor) and o.is_floating_point()]
    return torch.cat([o.flatten()[:8] for o in outputs])[:8]


def folder_config(model: Network) -> dict[str, Any]:
    """What config.json says of a model: how to build it and what users get wrong."""
    from zoo import __version__

    named = {"mean": "mean", "std": "std", "target": "target_kind", "pool": "pool"}
    known = {key: getattr(model, name) for key, name in named.items() if hasattr(model, name)}
    return {
        "library": "latentzoo",
        "version": __version__,
        **{k: v for k, v in model.zoo_config.items() if k != "parent" or v.startswith("hf://") or not is_place(v)},
        **{k: v.float().flatten().tolist() if isinstance(v, Tensor) else v for k, v in known.items()},
        "input": describe_input(model.takes),
    }


def _made_here(model: nn.Module) -> Network:
    """The model itself, which the hub made."""
    if not hasattr(model, "zoo_config"):
        inside = hasattr(getattr(model, "module", None), "zoo_config")
        mend = "give its `module`" if inside else "make it with zoo.create(arch, …)"
        raise ValueError(f"this {type(model).__name__} does not know its arch; {mend}")
    return cast(Network, model)


def _check_names(model: Network) -> None:
    """Raise where a model remembers names of more or fewer classes than it tells apart or draws by."""
    names = model.zoo_config.get("classes") or ()
    count = model.head.out_features if isinstance(model, Classifies) else getattr(model, "num_classes", len(names))
    if names and len(names) != count:
        raise ValueError(
            f"this {model.zoo_config['arch']} has {count} classes and the names of {len(names)}; give it as many as "
            "classes of its config.json, or none"
        )


def _loadable(model: Network) -> dict[str, Tensor]:
    """The tensors of a model, on the CPU, each in memory of its own, under the names its arch has for them.

    Raises:
        ValueError: other tensors than arch and arguments build, which nobody could load again, or NaN among them.
    """
    arch, args = model.zoo_config["arch"], model.zoo_config["args"]
    state = {TORCHS.sub("", k): v for k, v in model.state_dict().items()}
    packed = [k for k, v in state.items() if not isinstance(v, Tensor) or v.is_quantized]
    if packed:
        raise ValueError(f"this {arch} is quantised ({packed[0]}), and no file holds that; save what it was made from")
    with torch.device("meta"):
        own = build(arch, args).state_dict()
    if faults := misfits(own, state):
        if any(".parametrizations." in k for k in state):
            mend = "fold its parametrizations in with torch.nn.utils.parametrize.remove_parametrizations"
        elif isinstance(model, Classifies) and all(k.startswith("head.") for k in own.keys() ^ state.keys()):
            mend = "zoo.hub.reset_head(model, num_classes) makes a head of other classes"
        else:
            mend = "a network of another form needs a family of its own, docs/own-family.md"
        raise ValueError(f"this {arch} is not what its arch builds with {args}: {faults}; nothing was written. {mend}")
    nan = [k for k, v in state.items() if v.is_floating_point() and v.isnan().any()]
    if nan:
        raise ValueError(f"{len(nan)} tensors of this {arch} hold NaN ({nan[0]} first); nothing was written")
    memories: set[int] = set()
    for k, v in state.items():
        v = v.detach().contiguous().cpu()
        memory = v.untyped_storage().data_ptr()
        state[k] = v.clone() if memory in memories else v  # a file has no two names for one tensor
        memories.add(memory)
    return state


class _Method(nn.Module):
    """A method of a model whose `forward` is a training step, as a module."""

    def __init__(self, model: nn.Module, method: str):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(self.model, self.method)(x)
        return out


def _map(model: nn.Module) -> tuple[nn.Module, str]:
    """What a model makes of its input when nothing is trained, and what that is: logits, latents or features."""
    if isinstance(model, Classifies):
        return model, "logits"
    if isinstance(model, HasLatents):
        return _Method(model, "encode"), "latents"
    if isinstance(model, HasFeatures):
        return _Method(model, "forward_features"), "features"
    if isinstance(model, Reconstructs):
        return _Method(model, "encode"), "codes"
    raise ValueError(f"{type(model).__name__} gives no logits, features or latents, so ONNX has nothing to hold")


def _export_onnx(model: Network, folder: Path) -> Path:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError("ONNX needs the packages onnx and onnxscript; pip install 'latentzoo[onnx]'") from error
    (exported, gives), arch = _map(model), model.zoo_config["arch"]
    sample = torch.zeros(2, *model.takes.shape)
    with torch.no_grad():
        out = exported.eval()(sample)  # loads what the model needs besides its own tensors
    needed = [f"its {v.kind} {v.name}" for v in vars(model).values() if isinstance(v, Frozen) and v.network is not None]
    if needed:
        raise ValueError(f"{arch} makes {gives} with {needed[0]}, which no ONNX file of it would hold; {INSTEAD}")
    try:
        program = torch.onnx.export(
            exported,
            (sample,),
            input_names=[model.takes.kind],
            output_names=[gives],
            dynamic_shapes=[{0: torch.export.Dim("batch")}],
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # of three layers of torch, each with advice to who writes them
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
        raise ValueError(f"torch cannot write {arch} as ONNX ({said}); {INSTEAD}") from error
    assert program is not None  # dynamo gives one
    shape = program.model.graph.inputs[0].shape
    if shape is not None and isinstance(shape[0], int):
        raise ValueError(f"{arch} depends on the number of samples, and ONNX would hold it for 2 alone; {INSTEAD}")
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(folder) as aside:
        program.save(aside("model.onnx"), external_data=False)
    print(f"model.onnx: {model.takes.kind}s ({model.takes.layout}) → {gives} {('B', *out.shape[1:])}".replace("'", ""))
    return folder
