import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from speechmill.core.command import SpeechmillError
from speechmill.model import devices
from speechmill.model.devices import acquire_devices, visible_devices


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of a host without other jobs, nvidia-smi and Slurm."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "")  # so that it is restored after the test
        monkeypatch.delenv(name)
    return tmp_path


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make torch report `count` GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, host: Path) -> None:
    with_gpus(monkeypatch, 0)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, host: Path) -> None:
    with_gpus(monkeypatch, 2)


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch, host: Path) -> None:
    with_gpus(monkeypatch, 3)


@pytest.fixture
def listed_gpus(monkeypatch: pytest.MonkeyPatch, three_gpus: None, host: Path) -> None:
    """Three GPUs, and an nvidia-smi that prints their UUIDs."""
    program = host / "nvidia-smi"
    lines = [f"{i}, GPU-{letter * 8}-0000-0000-0000-000000000000" for i, letter in enumerate("abc")]
    program.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(f"'{line}'" for line in lines) + "\n")
    program.chmod(0o755)


@pytest.mark.usefixtures("no_gpu")
def test_missing_gpu_names_the_key_to_change() -> None:
    with (
        pytest.raises(
            SpeechmillError, match=r"runs\.demo\.device is gpu, but the job finds none .* set runs\.demo\.dev"
        ),
        acquire_devices("gpu", "runs.demo", 1),
    ):
        pass


@pytest.mark.usefixtures("two_gpus")
def test_gpu_that_was_not_granted_is_rejected() -> None:
    with (
        pytest.raises(SpeechmillError, match=r"was granted none \(--resources gpu=0\)"),
        acquire_devices("gpu", "runs.demo", 0),
    ):
        pass


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize("wanted", ["gpu", "auto"])
def test_fewer_granted_gpus_than_requested_are_rejected(wanted: str) -> None:
    # Under --resources gpu=1, Snakemake 9.27 silently reduces a rule's gpu=2 to 1.
    with (
        pytest.raises(
            SpeechmillError,
            match=r"runs\.demo\.gpus is 2, but the job was granted 1; give snakemake --resources gpu=2 or more, or set"
            r" runs\.demo\.gpus to 1 and raise runs\.demo\.plan\.gradient_accumulation",
        ),
        acquire_devices(wanted, "runs.demo", 1, 2),
    ):
        pass


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize("wanted", ["gpu", "auto"])
def test_fewer_visible_gpus_than_granted_are_rejected(wanted: str) -> None:
    with (
        pytest.raises(SpeechmillError, match=r"runs\.demo\.gpus is 4, but the job finds 3 of the 4 .*demo\.gpus to 3"),
        acquire_devices(wanted, "runs.demo", 4, 4),
    ):
        pass


@pytest.mark.usefixtures("no_gpu")
def test_auto_uses_the_cpu_without_a_gpu() -> None:
    with acquire_devices("auto", "runs.demo", 1) as acquired:
        assert acquired == [torch.device("cpu")]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("wanted", "granted"), [("auto", 0), ("cpu", 0), ("cpu", 1)])
def test_cpu_is_used_unless_a_gpu_is_granted(wanted: str, granted: int) -> None:
    with acquire_devices(wanted, "runs.demo", granted) as acquired:
        assert acquired == [torch.device("cpu")]


@pytest.mark.usefixtures("no_gpu")
def test_several_processes_share_the_cpu() -> None:
    with acquire_devices("cpu", "runs.demo", 0, 3) as acquired:
        assert acquired == [torch.device("cpu")] * 3


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("wanted", ["gpu", "auto"])
def test_two_jobs_use_different_gpus(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with acquire_devices(wanted, "runs.one", 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # as in the process of the other job
        with acquire_devices(wanted, "runs.other", 1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.usefixtures("three_gpus")
def test_job_acquires_several_of_the_free_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    with acquire_devices("gpu", "runs.one", 1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
        with acquire_devices("gpu", "runs.other", 2, 2) as acquired:
            assert acquired == [torch.device("cuda", 0), torch.device("cuda", 1)]
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"


@pytest.mark.usefixtures("two_gpus")
def test_failed_job_releases_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError), acquire_devices("gpu", "runs.one", 1):
        raise RuntimeError
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with acquire_devices("gpu", "runs.other", 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (None, ["0", "1"]),
        ("3,5", ["3", "5"]),
        ("3, 5", ["3", "5"]),
        ("GPU-8f3a,GPU-77aa", ["GPU-8f3a", "GPU-77aa"]),
        ("3,5,7", ["3", "5"]),  # torch stops at the first one that it cannot use
    ],
)
def test_visible_devices_keeps_the_names_of_the_host(
    monkeypatch: pytest.MonkeyPatch, listed: str | None, names: list[str]
) -> None:
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_devices(2) == names


@pytest.mark.usefixtures("two_gpus")
def test_jobs_with_different_gpus_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    # A cluster assigns each job a GPU of its own, which both jobs call cuda:0.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    with acquire_devices("gpu", "runs.one", 1) as (first,):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        with acquire_devices("gpu", "runs.other", 1) as (second,):
            assert first.index == second.index == 0


class WaitingError(Exception):
    """Raised in place of waiting."""


def would_wait(monkeypatch: pytest.MonkeyPatch, names: list[str], count: int = 1) -> bool:
    """Return whether a job with these visible devices would have to wait for `count` of them."""

    def sleep(_: float) -> None:
        raise WaitingError

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", sleep)
        try:
            with devices._locked(names, count):
                return False
        except WaitingError:
            return True


@pytest.mark.usefixtures("listed_gpus")
@pytest.mark.parametrize("name", ["GPU-bbbbbbbb-0000-0000-0000-000000000000", "GPU-bbbb", "1"])
def test_index_and_uuid_share_a_lock(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with devices._locked(["1"], 1):
        assert would_wait(monkeypatch, [name])
        assert not would_wait(monkeypatch, ["0"])
        assert not would_wait(monkeypatch, ["GPU-cccc"])
    with devices._locked([name], 1):
        assert would_wait(monkeypatch, ["1"])


@pytest.mark.usefixtures("listed_gpus")
def test_cuda_visible_devices_keeps_given_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb,2,0")
    with acquire_devices("gpu", "runs.demo", 2, 2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb,2"


@pytest.mark.usefixtures("listed_gpus")
def test_failing_nvidia_smi_falls_back_to_names(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As nvidia-smi fails without a driver.
    (host / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    with devices._locked(["1"], 1):
        assert would_wait(monkeypatch, ["1"])


@pytest.mark.usefixtures("three_gpus")
def test_slurm_jobs_may_use_the_same_index(monkeypatch: pytest.MonkeyPatch) -> None:
    # With ConstrainDevices, each job numbers its devices from 0.
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    with devices._locked(["0"], 1):
        assert would_wait(monkeypatch, ["0"])  # jobs of the same allocation share devices
        monkeypatch.setenv("SLURM_JOB_ID", "42")
        assert not would_wait(monkeypatch, ["0"])


@pytest.mark.usefixtures("two_gpus")
def test_slurm_tasks_share_the_gpus_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with acquire_devices("gpu", "runs.demo", 4, 4) as acquired:
        assert len(acquired) == 2
    with (
        pytest.raises(
            SpeechmillError, match=r"runs\.demo\.gpus is 3, which 2 Slurm tasks cannot share equally.* multiple of 2"
        ),
        acquire_devices("gpu", "runs.demo", 3, 3),
    ):
        pass


def test_waiting_job_holds_no_gpu(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # If two jobs each needed two of three GPUs and kept the one that they got, they would wait forever.
    with devices._locked(["0", "1", "2"], 2) as names:
        assert names == ["0", "1"]
        free = []

        def sleep(_: float) -> None:
            with devices._locked(["2"], 1) as acquired:
                free.extend(acquired)
            raise WaitingError

        monkeypatch.setattr("time.sleep", sleep)
        with pytest.raises(WaitingError), devices._locked(["0", "1", "2"], 2):
            pass
        assert free == ["2"]


def hold(folder: str, acquired: Event, done: Event) -> None:
    """Hold GPU 0, as another job in a process of its own, until `done` is set."""
    devices.tempfile.gettempdir = lambda: folder  # type: ignore[method-assign, assignment]
    with devices._locked(["0"], 1):
        acquired.set()
        done.wait()


def test_job_waits_for_another_process_and_reports_it(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("fork")
    acquired, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(host), acquired, done))
    other.start()
    assert acquired.wait(60)
    sleeps = []

    def sleep(seconds: float) -> None:
        # The other job ends during the second sleep.
        sleeps.append(seconds)
        if len(sleeps) == 2:
            done.set()
            other.join()

    monkeypatch.setattr("time.sleep", sleep)
    with devices._locked(["0"], 1) as names:
        assert names == ["0"]
    assert len(sleeps) == 2
    assert other.exitcode == 0
    assert capsys.readouterr().err == ("waiting for GPU 0: in use by other jobs on this machine\nacquired GPU 0\n")


def test_message_lists_the_gpus_waited_for(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with devices._locked(["1"], 1):
        assert capsys.readouterr().err == ""
        assert would_wait(monkeypatch, ["0", "1"], 2)
    assert capsys.readouterr().err == "waiting for 2 of the GPUs 0, 1: in use by other jobs on this machine\n"


def test_killed_job_releases_its_gpu(host: Path) -> None:
    context = multiprocessing.get_context("fork")
    acquired = context.Event()
    other = context.Process(target=hold, args=(str(host), acquired, context.Event()))
    other.start()
    assert acquired.wait(60)
    other.kill()
    other.join()
    with devices._locked(["0"], 1) as names:
        assert names == ["0"]


def test_worker_process_does_not_affect_the_lock(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The DataLoader forks workers while the job holds its GPU.
    worker = multiprocessing.get_context("fork").Process(target=int)
    with devices._locked(["0"], 1):
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        assert would_wait(monkeypatch, ["0"])
    assert not would_wait(monkeypatch, ["0"])


def test_locks_are_open_to_all_users(host: Path) -> None:
    folder = host / "speechmill-devices"
    umask = os.umask(0o077)
    try:
        with devices._locked(["0"], 1):
            modes = {path.name: path.stat().st_mode & 0o7777 for path in (folder, *folder.iterdir())}
    finally:
        os.umask(umask)
    assert modes == {"speechmill-devices": 0o1777, "taking": 0o666, "0.lock": 0o666}


@pytest.mark.parametrize("name", ["taking", "0.lock"])
@pytest.mark.parametrize("exists", [True, False])
def test_symbolic_link_as_lock_is_rejected(host: Path, tmp_path: Path, name: str, exists: bool) -> None:
    folder, target = host / "speechmill-devices", tmp_path / "file-of-another-user"
    folder.mkdir()
    (folder / name).symlink_to(target)
    if exists:
        target.touch(0o600)
    with (
        pytest.raises(SpeechmillError, match=rf"speechmill-devices/{name} is a link .*; delete it"),
        devices._locked(["0"], 1),
    ):
        pass
    assert target.exists() is exists
    assert not exists or target.stat().st_mode & 0o777 == 0o600


def hard_link(path: Path) -> None:
    target = path.with_name("file-of-another-user")
    target.touch()
    path.hardlink_to(target)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, hard_link])
def test_other_kinds_of_files_as_lock_are_rejected(host: Path, make: Callable[[Path], None]) -> None:
    (host / "speechmill-devices").mkdir()
    make(host / "speechmill-devices" / "0.lock")
    with pytest.raises(SpeechmillError, match=r"0\.lock is a link or not a regular file"), devices._locked(["0"], 1):
        pass


def test_lock_folder_of_an_earlier_release_gets_the_sticky_bit(host: Path) -> None:
    folder = host / "speechmill-devices"
    folder.mkdir()
    folder.chmod(0o777)
    with devices._locked(["0"], 1):
        assert folder.stat().st_mode & 0o7777 == 0o1777


def test_symbolic_link_as_lock_folder_is_rejected(host: Path, tmp_path: Path) -> None:
    target = tmp_path / "folder-of-another-user"
    target.mkdir(0o700)
    (host / "speechmill-devices").symlink_to(target)
    with pytest.raises(SpeechmillError, match="speechmill-devices is not a folder"), devices._locked(["0"], 1):
        pass
    assert list(target.iterdir()) == []
    assert target.stat().st_mode & 0o777 == 0o700


def test_threads_exclude_each_other(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    guard = threading.Lock()
    # A job that finds no free device yields the CPU and tries again.
    monkeypatch.setattr("time.sleep", lambda seconds: threading.Event().wait(0))

    def job() -> None:
        nonlocal inside, most
        for _ in range(20):
            with devices._locked(["0"], 1):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_lock_is_visible_to_flock(host: Path) -> None:
    with (
        devices._locked(["7"], 1),
        (host / "speechmill-devices" / "7.lock").open("a") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.usefixtures("two_gpus")
def test_job_on_the_cpu_sees_no_gpus() -> None:
    with acquire_devices("auto", "runs.demo", 0) as acquired:
        assert acquired == [torch.device("cpu")]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.usefixtures("two_gpus")
def test_gpus_compute_fp32_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with acquire_devices("gpu", "runs.demo", 1):
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        # As the CTC loss does.
        with torch.backends.cudnn.flags(enabled=False):
            pass
        assert not torch.backends.cudnn.allow_tf32
