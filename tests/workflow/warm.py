"""Python for workflow tests that has its libraries imported already.

A workflow starts many short jobs, and most of what they take is importing torch, transformers and Snakemake. So a
server imports them once, and a program named `python`, put before the real one on PATH, has it fork a process that
becomes the job: with the job's arguments, environment, folder and open files. What a job does is untouched.
"""

import array
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Others read their settings from the environment while they are imported, or are quick.
STAGES = (
    "vocab", "plan", "finetune", "log_probs", "lm_weights", "evaluate", "select_tuning_checkpoint", "summary", "select", "breakdown",
    "worst", "robustness", "card", "audit",
)  # fmt: skip
WARM = {f"speechmill.{stage}" for stage in STAGES} | {"snakemake"}

_CLIENT = """#!{python} -ISs
import array, json, os, signal, socket, sys
given = sys.argv[1:]
if given[:1] != ["-m"] or given[1] not in {warm!r}:
    os.execv({python!r}, [{python!r}, *given])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
job = json.dumps([given[1:], dict(os.environ), os.getcwd()]).encode()
server.sendmsg(
    [len(job).to_bytes(4, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
)
server.sendall(job)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
status = int.from_bytes(server.recv(4), "little", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """A folder with a program `python` whose jobs start in a moment; its server runs until the block ends."""
    address = folder / "server"
    program = folder / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(_CLIENT.format(python=sys.executable, warm=WARM, address=str(address)))
    program.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield program.parent
        server.stdin.close()


def _serve(address: str) -> None:
    # As jobs have it, and read while transformers is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    import matplotlib.pyplot
    import pandas
    import pyarrow.parquet
    import snakemake.cli
    import torch.utils.tensorboard
    from transformers import AutoModelForCTC, Trainer, Wav2Vec2Processor

    assert all((matplotlib.pyplot, pandas, pyarrow.parquet, snakemake.cli, torch, AutoModelForCTC, Trainer))
    assert Wav2Vec2Processor
    # Nobody waits for them, and their processes shall not stay behind.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_attend(client))
        client.close()


def _attend(client: socket.socket) -> int:
    """Fork the job that a client asks for, pass its signals on, and tell it how the job ended."""
    import json

    head, passed, _, _ = client.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    files = array.array("i", passed[0][2])
    size, got = int.from_bytes(head, "little"), b""
    while len(got) < size:
        got += client.recv(size - len(got))
    arguments, environment, folder = json.loads(got)
    job = os.fork()
    if job == 0:
        client.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
        for file in files:
            if file > 2:
                os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[0] = folder
        sys.path[1:1] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
        sys.argv = arguments
        _become(arguments[0])
    for file in files:
        os.close(file)
    ended = os.pidfd_open(job)
    while True:
        ready, _, _ = select.select([ended, client], [], [])
        if ended in ready:
            status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
            client.sendall(status.to_bytes(4, "little", signed=True))
            return 0
        # A client that was killed takes its job along.
        os.kill(job, (client.recv(1) or bytes([signal.SIGKILL]))[0])


def _become(module: str) -> None:
    status = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            status = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
