"""The `zoo` command. Nothing heavy is imported before a verb needs it: `zoo ls` answers without torch."""

import builtins
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from zoo import __version__, registry
from zoo.cli import applying, catalogue, giving, running, storing, training
from zoo.redact import redact

HELP = """\
zoo ls ['mae*'] [--all] [--pretrained] [--licence permissive] [--recipes] [--json]
                                    what ships; what there is: models, weights, recipes
zoo info NAME|ARCH|RECIPE|RUN|FOLDER [--json]
                                    all that is known: figures and their protocol, licence, sha256, data, cost
zoo runs [DIR …] [--sort best] [-o curves.png] [--json]
                                    what runs have come to; their curves
zoo cp RECIPE FILE                  a recipe of one's own
zoo validate RECIPE|FILE [--…]      parse it, build it, run one batch, print the shapes; --estimate: memory and time
zoo fit RECIPE|FILE [--model.lr 1e-4 …]
zoo fit --resume RUN [--…]          pretrain, fine-tune; resume exactly
zoo eval NAME|FOLDER|RUN [SOURCE]
                                    the family's own figures, classes by name; the last line is JSON
zoo show MODEL [SOURCE …] -o FILE.png
                                    a picture of what the model does
zoo sample NAME|FOLDER|RUN [--classes 3,7 --steps 50 --guidance 1.5] -o FILE.png
                                    what a generative model draws, class by class
zoo predict MODEL SOURCE… -o OUT.csv|.json|.parquet [--top-k 5]
                                    the class of each picture, by name, with its score
zoo embed MODEL SOURCE… -o OUT.parquet|.npy [--pool cls] [--layer -2]
                                    the features of each picture, and which model made them
zoo similar FEATURES PICTURE… -o FILE.png [--count 8] [--json]
                                    the nearest of what was embedded, as a picture and a table
zoo codes MODEL SOURCE… -o OUT.parquet|.npy
                                    the codes of each picture, where latents are discrete
zoo export RUN|CKPT|NAME -o FOLDER [--to safetensors|timm|diffusers|onnx] [--half] [--licence ID]
zoo push RUN|FOLDER|NAME ORG/NAME [--licence ID] [-o FOLDER]
                                    publish on the Hugging Face Hub, or write what would be published
zoo verify NAME                     hash, strict load, golden outputs
zoo convert FILE ARCH -o FOLDER [--take model|ema] [--stats FILE] [--args JSON]
                                    somebody else's checkpoint into a folder of ours; what was taken is said
zoo latents MODEL SOURCE -o FOLDER [--flip]
                                    a data set through an encoder, once, for a diffusion recipe
zoo shard SOURCE -o FOLDER [--image-size N]
zoo shard --index PLACE [-o FOLDER] a data set as tar files to stream, or a manifest of tar files that are there
zoo cache ls
zoo cache prune --older-than DAYS | --size 20GB | --all
                                    decoded images that stay on the disk

NAME is arch.tag (`zoo ls --pretrained`), a checkpoint folder, or hf://org/name@revision."""

TRACE = "Traceback (most recent call last):"
LONGEST = 400  # of what an unexpected error says
NEXT = {  # what to do about errors of others, by their type
    "OutOfMemoryError": "lower --data.batch_size or set --model.grad_checkpointing true; ",
    "MemoryError": "lower --data.batch_size or the image size; ",
    "ModuleNotFoundError": "install that package; ",
}


def main(argv: list[str] | None = None) -> int:
    """Run a verb; 0 when it worked.

    What stops it is one line on stderr. 2: what was asked cannot be done. 1: any other error, whose trace `ZOO_DEBUG=1`
    shows. 128 + signal: a signal ended it, or nobody read what it prints, and nothing is said.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a file or pipe on Windows would be cp1252, which lacks → and ×
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    verb = argv[0] if argv else "--help"
    try:
        status = _run(verb, argv[1:])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if _unread(error):
            return 128 + 13  # SIGPIPE, which Windows does not name
        if os.environ.get("ZOO_DEBUG"):
            import traceback

            print(redact(traceback.format_exc()), file=sys.stderr)
        said, status = explain(error)
        print(redact(f"zoo {verb}: {said}"), file=sys.stderr)
        return status


def _run(verb: str, rest: list[str]) -> int:
    if verb in ("-h", "--help", "help"):
        print(HELP)
    elif verb == "--version":
        print(__version__)
    elif verb in VERBS:
        return VERBS[verb](rest) or 0
    else:
        print(f"zoo: no verb {verb!r}{registry.suggest(verb, VERBS)}; zoo --help lists them", file=sys.stderr)
        return 2
    return 0


def explain(error: Exception) -> tuple[str, int]:
    """What an exception says, in one line, and the exit status that it makes.

    ValueErrors and OSErrors are 2 and say what to do next by themselves. Any other is 1, with its type, where it was
    raised and how to see more.
    """
    kind, said = type(error), str(error)
    trace = said.rpartition(TRACE)[2] if TRACE in said else ""  # of a DataLoader's worker, or of another process
    if found := re.search(r"^(?:\w+\.)*(\w+)(?:: |$)", trace, re.MULTILINE):  # what was raised there
        named = getattr(builtins, found[1], None)
        kind = named if isinstance(named, type) else type(found[1], (Exception,), {})
        said = trace[found.end() :]
    said = " ".join(said.split())
    expected = issubclass(kind, ValueError | OSError)
    if not expected or issubclass(kind, UnicodeError) or " " not in said:
        said = f"{kind.__name__}: {said}" if said else kind.__name__
    if expected:
        return said, 2
    said = said if len(said) <= LONGEST else f"{said[:LONGEST].rstrip()}…"
    advice = NEXT.get(kind.__name__, "")
    return f"{said}{_place(error)}; {advice}ZOO_DEBUG=1 shows the whole trace", 1


def _place(error: Exception) -> str:
    """The last line of this package that an exception came through."""
    here, place, trace = Path(__file__).parents[1], "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(here) and not file.is_relative_to(Path(__file__).parent):
            place = f" (zoo/{file.relative_to(here).as_posix()}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _unread(error: Exception) -> bool:
    """Whether it says that stdout's reader has gone, `zoo ls | head`; what is left of the output then goes nowhere."""
    if not isinstance(error, OSError) or error.errno not in (errno.EPIPE, errno.EINVAL):  # the second is Windows'
        return False
    try:
        print(flush=True)  # another process or the network may have been meant
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return True
    return False


VERBS: dict[str, Callable[[list[str]], int | None]] = {
    "ls": catalogue.ls,
    "info": catalogue.info,
    "runs": catalogue.runs,
    "cp": catalogue.cp,
    "validate": training.validate,
    "fit": training.fit,
    "eval": running.evaluate,
    "show": running.show,
    "sample": running.sample,
    "predict": applying.predict,
    "embed": applying.embed,
    "similar": applying.similar,
    "codes": applying.codes,
    "export": giving.export,
    "push": giving.push,
    "verify": giving.verify,
    "convert": giving.convert,
    "latents": applying.latents,
    "shard": storing.shard,
    "cache": storing.cache,
}
