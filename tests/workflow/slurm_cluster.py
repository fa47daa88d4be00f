"""A real Slurm cluster of two nodes on one machine, each with two stand-in GPUs: no accounting, cgroups or systemd.

It needs root and the programs of Debian's packages slurm-wlm and munge. Its configuration is in /etc/slurm: the
executor plugin removes the variables of Slurm before it starts a step, and SLURM_CONF with them.
"""

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from servers import free_ports, wait_until

CONFIGURATION = Path("/etc/slurm")
NODES = ("n1", "n2")

_NAME = "ClusterName=speechmill-tests\n"
_SLURM_CONF = """\
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=24000 Gres=gpu:standin:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=24000 Gres=gpu:standin:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Slurm requires device files, which nothing reads.
_GRES_CONF = "NodeName=n[1-2] Name=gpu Type=standin File={folder}/gpu[0-1]\n"


def control(program: str, *arguments: str) -> str:
    """Run a command of Slurm and return its output."""
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout


@dataclass
class SlurmCluster:
    """A running cluster, whose daemons write to logs in `folder`."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def running(self, node: str) -> set[str]:
        """Return the jobs that run on a node."""
        return set(control("squeue", "--noheader", "--states=running", f"--nodelist={node}", "--format=%i").split())

    def lose(self, node: str) -> None:
        """Take a node down like a power failure: kill its daemon and all processes of its jobs."""
        jobs = self.running(node)
        self.daemons[node].kill()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(PermissionError, FileNotFoundError, ProcessLookupError):
                title = (process / "cmdline").read_bytes().decode(errors="replace")
                variables = (process / "environ").read_bytes().split(b"\0")
                if title.startswith(tuple(f"slurmstepd: [{job}." for job in jobs)) or (
                    f"SLURMD_NODENAME={node}".encode() in variables
                ):
                    os.kill(int(process.name), signal.SIGKILL)
        control("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def stop(self) -> None:
        """Stop all daemons and jobs."""
        for node in NODES:
            if node in self.daemons and self.daemons[node].poll() is None:
                self.lose(node)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            daemon.wait()


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Start a cluster with the nodes `NODES`, each with four processors and two GPUs; stop it when the block ends."""
    conf = CONFIGURATION / "slurm.conf"
    # A killed test run leaves its configuration behind.
    assert not conf.exists() or _NAME in conf.read_text(), (
        f"{conf} belongs to another cluster: move it, or skip these tests with --ignore tests/workflow/test_slurm.py"
    )
    cluster = SlurmCluster(folder)
    (folder / "state").mkdir()
    for gpu in ("gpu0", "gpu1"):
        (folder / gpu).symlink_to("/dev/null")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    written = {
        conf: _NAME + _SLURM_CONF.format(host=socket.gethostname(), folder=folder, ports=free_ports(3)),
        CONFIGURATION / "gres.conf": _GRES_CONF.format(folder=folder),
    }
    try:
        for path, text in written.items():
            path.write_text(text)
        cluster.start(
            "munged", "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
            f"--log-file={folder}/munge.log", f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        wait_until(lambda: (folder / "munge.socket").exists())
        cluster.start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            cluster.start(node, "slurmd", "-D", "-N", node)
        wait_until(lambda: subprocess.run(["srun", "--nodes=2", "true"], capture_output=True).returncode == 0)
        yield cluster
    finally:
        cluster.stop()
        for path in written:
            path.unlink(missing_ok=True)
