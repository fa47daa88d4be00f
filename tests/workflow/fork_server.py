"""A `python` for workflow tests that starts modules in a fork of a process with the large libraries already imported.

A plain Python spends about five seconds of processor time on importing torch and transformers, and more than one on
importing Snakemake. The workflow tests run 120 jobs that need the former, and Snakemake as often, so that imports would
take ten minutes of processor time, twice as much as everything else. The runs behind the fixtures `spoken_archive` and
`finished` use a plain Python nevertheless, as users do.
"""

import atexit
import json
import os
import runpy
import shutil
import socket
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context
from pathlib import Path

# `python -m MODULE …` becomes a fork of the server, unless its libraries must see the network, a setting that they
# read when they are imported. Any other command runs in the real Python.
_CLIENT = """\
#!{python} -ISs
import json, os, socket, sys
if sys.argv[1:2] != ["-m"] or os.environ.get("HF_HUB_OFFLINE") == "0":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]).encode() + b"\\n")
    status = server.recv(16)
sys.exit(int(status))
"""


@contextmanager
def fork_server(folder: Path) -> Iterator[Path]:
    """Yield a folder with the programs `python` and `snakemake`; their server runs until the block ends."""
    address, program = folder / "server", folder / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    snakemake = program.with_name("snakemake")
    snakemake.write_text('#!/bin/sh\nexec python -m snakemake "$@"\n')
    for file in (program, snakemake):
        file.chmod(0o755)
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE, cwd=folder) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield program.parent
        server.terminate()


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 64
    max_children = 1000


class _Command(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Run the client's command in a child process and send its exit status; kill it if the client is killed."""
        _, files, _, _ = socket.recv_fds(self.request, 1, 3)
        arguments, environment, folder = json.loads(self.request.makefile("rb").readline())
        job = get_context("fork").Process(target=_run, args=(files, arguments, environment, folder))
        job.start()
        for file in files:
            os.close(file)
        if job.sentinel not in connection.wait([job.sentinel, self.request]):
            job.kill()
            return
        job.join()
        assert job.exitcode is not None
        # A signal is reported as a shell does it.
        self.request.sendall(str(job.exitcode if job.exitcode >= 0 else 128 - job.exitcode).encode())


def _run(files: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # The name of the process, by which a test finds it (proc(5)).
    Path("/proc/self/comm").write_text(arguments[0])
    if arguments[0] == "snakemake":
        # The workflow puts the folder of its Python first on the PATH of its jobs.
        sys.executable = shutil.which("python") or sys.executable
    current = [] if environment.get("PYTHONSAFEPATH") else [folder]
    sys.path[:1] = [*current, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


def _serve(address: str) -> None:
    # The environment of jobs, as far as libraries read it when they are imported.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import snakemake.cli  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    from transformers import AutoModelForCTC, Trainer, Wav2Vec2Processor  # noqa: F401

    with _Server(address, _Command) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1])
