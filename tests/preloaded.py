"""Python processes at the price of a fork: one has imported torch and Lightning, and the others are its children.

`python preloaded.py SOCKET` serves. `python -IS preloaded.py SOCKET -m MODULE ARG …`, or `-c CODE ARG …`, is a client:
a child of the server runs the module with the client's arguments, directory, environment and streams, and the client
ends as that child ended. zoo itself is not imported beforehand, so that a child reads its environment and finds its
plugins as any new process does; so does the Hub's client. What torch and Lightning read of theirs at import is the
server's. A test of what is imported, or of signals, takes `sys.executable` instead.
"""

import array
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from types import ModuleType

PRELOADED = ("torch", "torchvision", "lightning.pytorch.cli", "torchmetrics", "timm", "torch.utils.tensorboard")
STREAMS = array.array("i", [0, 1, 2])


def ask(address: str, *argv: str) -> int:
    """The status of `python ARGV`, run by a child of the server; negative where a signal ended it."""
    request = json.dumps({"argv": argv, "cwd": os.getcwd(), "env": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        server.sendmsg([b"0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, STREAMS)])
        server.sendall(request)
        server.shutdown(socket.SHUT_WR)
        return int(server.makefile().read())


def serve(address: str) -> None:
    """Answer until stdin is closed: whoever began the server has ended."""
    for name in PRELOADED:
        __import__(name)
    gc.freeze()  # children leave the pages of what is there shared
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    print("ready", flush=True)
    children: list[int] = []
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        client = listening.accept()[0]
        child = os.fork()
        if child == 0:
            listening.close()
            return answer(client)
        client.close()
        children = [pid for pid in (*children, child) if not os.waitpid(pid, os.WNOHANG)[0]]
    for child in children:
        os.waitpid(child, 0)


def answer(client: socket.socket) -> None:
    """Run what a client asks in a child, and tell the client how the child ended."""
    _, ((_, _, streams),), *_ = client.recvmsg(1, socket.CMSG_SPACE(len(STREAMS.tobytes())))
    request = json.loads(client.makefile().read())
    for number, stream in zip(STREAMS, array.array("i", streams)):
        os.dup2(stream, number)
        os.close(stream)
    child = os.fork()
    if child == 0:
        client.close()
        return run(**request)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    client.sendall(str(status).encode())
    os._exit(0)


def run(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    """`python ARGV` in this process."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        del sys.modules[name]  # timm brought it, and it reads HF_HOME and the like as it is imported
    how, what, *rest = argv
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 - open to the end
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = [how, *rest]
    paths = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = ["" if how == "-c" else cwd, *filter(None, paths)]  # the first was this file's folder
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        status = ask(*sys.argv[1:])
        if status < 0:
            with contextlib.suppress(OSError):  # SIGKILL takes no handler
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        sys.exit(status)
