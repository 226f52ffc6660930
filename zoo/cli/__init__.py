"""The `zoo` command. Nothing heavy is imported before a verb needs it: `zoo ls` answers without torch."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable

from zoo import __version__, registry
from zoo.cli import applying, catalogue, giving, pinning, running, storing, training
from zoo.cli.saying import explain, plainly, say
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
zoo release RUN [RUN …] ARCH.TAG [-o FOLDER] [--licence ID]
                                    weights that stand: the first run's, mean and range of all, config.json the record
zoo export RUN|CKPT|NAME -o FOLDER [--to safetensors|timm|diffusers|onnx] [--half] [--licence ID]
zoo push RUN|FOLDER|NAME ORG/NAME [--licence ID] [-o FOLDER]
                                    publish on the Hugging Face Hub, or write what would be published
zoo verify [NAME …] [--all] [--links] [--eval [SOURCE]]
                                    hash, strict load, golden outputs; whether published figures stand
zoo lock NAME… [-o FILE] [--update] pin weights to what they are now, in a file to commit
zoo bundle NAME… -o FOLDER          what a machine without a network needs to load them
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
        with plainly(verb):
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
        say(verb, said)
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
    "release": giving.release,
    "export": giving.export,
    "push": giving.push,
    "verify": pinning.verify,
    "lock": pinning.lock,
    "bundle": pinning.bundle,
    "convert": giving.convert,
    "latents": applying.latents,
    "shard": storing.shard,
    "cache": storing.cache,
}
