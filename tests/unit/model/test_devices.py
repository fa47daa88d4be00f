import fcntl
import multiprocessing
import os
import threading
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from speechmill.core.command import SpeechmillError
from speechmill.model import devices
from speechmill.model.devices import acquire_devices, visible_devices


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the locks of a host on which nobody else computes, of which nvidia-smi and Slurm tell nothing."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever a test makes of it
        monkeypatch.delenv(name)
    return tmp_path


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So many devices that do nothing."""
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
    """Three devices, and the program that tells their UUIDs, as NVIDIA's prints them."""
    program = host / "nvidia-smi"
    lines = [f"{i}, GPU-{letter * 8}-0000-0000-0000-000000000000" for i, letter in enumerate("abc")]
    program.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(f"'{line}'" for line in lines) + "\n")
    program.chmod(0o755)


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_refused_with_the_key_to_change() -> None:
    with (
        pytest.raises(
            SpeechmillError, match=r"runs\.demo\.device is gpu, but the job sees none .* set runs\.demo\.dev"
        ),
        acquire_devices("gpu", "demo", 1),
    ):
        pass


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_was_not_granted_is_refused_though_it_is_there() -> None:
    with (
        pytest.raises(SpeechmillError, match=r"was granted none \(--resources gpu=0\)"),
        acquire_devices("gpu", "demo", 0),
    ):
        pass


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize("wanted", ["gpu", "auto"])
def test_fewer_gpus_than_the_run_wants_are_refused_with_the_key_and_what_to_do(wanted: str) -> None:
    # Under --resources gpu=1, Snakemake 9.27 scales a rule's gpu=2 to 1 without a word.
    with (
        pytest.raises(
            SpeechmillError,
            match=r"runs\.demo\.gpus is 2, but the job was granted 1; give snakemake --resources gpu=2, or more, or set"
            r" runs\.demo\.gpus to 1 and raise runs\.demo\.plan\.gradient_accumulation",
        ),
        acquire_devices(wanted, "demo", 1, 2),
    ):
        pass


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize("wanted", ["gpu", "auto"])
def test_fewer_gpus_than_were_granted_are_refused(wanted: str) -> None:
    with (
        pytest.raises(SpeechmillError, match=r"runs\.demo\.gpus is 4, but the job sees 3 of the 4 .*demo\.gpus to 3"),
        acquire_devices(wanted, "demo", 4, 4),
    ):
        pass


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_the_processor_where_there_is_no_gpu() -> None:
    with acquire_devices("auto", "demo", 1) as taken:
        assert taken == [torch.device("cpu")]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("wanted", "granted"), [("auto", 0), ("cpu", 0), ("cpu", 1)])
def test_a_gpu_is_left_alone_where_none_was_granted_or_asked_for(wanted: str, granted: int) -> None:
    with acquire_devices(wanted, "demo", granted) as taken:
        assert taken == [torch.device("cpu")]


@pytest.mark.usefixtures("no_gpu")
def test_several_processes_on_the_processor_have_it_each() -> None:
    with acquire_devices("cpu", "demo", 0, 3) as taken:
        assert taken == [torch.device("cpu")] * 3


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("wanted", ["gpu", "auto"])
def test_two_jobs_take_two_devices_and_see_no_other(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with acquire_devices(wanted, "one", 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # the other job is another process
        with acquire_devices(wanted, "other", 1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.usefixtures("three_gpus")
def test_a_job_takes_as_many_devices_as_it_needs_of_those_that_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    with acquire_devices("gpu", "one", 1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
        with acquire_devices("gpu", "other", 2, 2) as taken:
            assert taken == [torch.device("cuda", 0), torch.device("cuda", 1)]
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"


@pytest.mark.usefixtures("two_gpus")
def test_a_job_that_fails_gives_its_device_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError), acquire_devices("gpu", "one", 1):
        raise RuntimeError
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with acquire_devices("gpu", "other", 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (None, ["0", "1"]),
        ("3,5", ["3", "5"]),
        ("3, 5", ["3", "5"]),
        ("GPU-8f3a,GPU-77aa", ["GPU-8f3a", "GPU-77aa"]),
        ("3,5,7", ["3", "5"]),  # torch stops at the first that it cannot use
    ],
)
def test_devices_are_named_as_the_host_names_them(
    monkeypatch: pytest.MonkeyPatch, listed: str | None, names: list[str]
) -> None:
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_devices(2) == names


@pytest.mark.usefixtures("two_gpus")
def test_jobs_that_see_different_devices_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # A cluster gives each job its own; both call it cuda:0.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    with acquire_devices("gpu", "one", 1) as (first,):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        with acquire_devices("gpu", "other", 1) as (second,):
            assert first.index == second.index == 0


class WaitingError(Exception):
    """What stands for a job that would wait."""


def would_wait(monkeypatch: pytest.MonkeyPatch, names: list[str], count: int = 1) -> bool:
    """Whether a job that sees these devices would have to wait for `count` of them."""

    def nap(_: float) -> None:
        raise WaitingError

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", nap)
        try:
            with devices._locked(names, count):
                return False
        except WaitingError:
            return True


@pytest.mark.usefixtures("listed_gpus")
@pytest.mark.parametrize("name", ["GPU-bbbbbbbb-0000-0000-0000-000000000000", "GPU-bbbb", "1"])
def test_a_device_is_the_same_by_index_and_by_uuid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with devices._locked(["1"], 1):
        assert would_wait(monkeypatch, [name])
        assert not would_wait(monkeypatch, ["0"])
        assert not would_wait(monkeypatch, ["GPU-cccc"])
    with devices._locked([name], 1):
        assert would_wait(monkeypatch, ["1"])


@pytest.mark.usefixtures("listed_gpus")
def test_a_job_sees_its_devices_by_the_names_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb,2,0")
    with acquire_devices("gpu", "demo", 2, 2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb,2"


@pytest.mark.usefixtures("listed_gpus")
def test_a_program_that_tells_no_uuids_leaves_devices_their_names(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As nvidia-smi ends without a driver.
    (host / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    with devices._locked(["1"], 1):
        assert would_wait(monkeypatch, ["1"])


@pytest.mark.usefixtures("three_gpus")
def test_slurm_may_call_the_devices_of_two_jobs_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    # With ConstrainDevices, each job's devices are counted from 0.
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    with devices._locked(["0"], 1):
        assert would_wait(monkeypatch, ["0"])  # within one allocation, jobs share
        monkeypatch.setenv("SLURM_JOB_ID", "42")
        assert not would_wait(monkeypatch, ["0"])


@pytest.mark.usefixtures("two_gpus")
def test_tasks_of_slurm_share_the_devices_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with acquire_devices("gpu", "demo", 4, 4) as taken:
        assert len(taken) == 2
    with (
        pytest.raises(
            SpeechmillError, match=r"runs\.demo\.gpus is 3, which 2 Slurm tasks cannot share.* multiple of 2"
        ),
        acquire_devices("gpu", "demo", 3, 3),
    ):
        pass


def test_a_job_that_cannot_have_all_holds_none(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two jobs that each wanted two of three, and kept the one that they got, would wait for each other for ever.
    with devices._locked(["0", "1", "2"], 2) as names:
        assert names == ["0", "1"]
        others = []

        def nap(_: float) -> None:
            with devices._locked(["2"], 1) as left:
                others.extend(left)
            raise WaitingError

        monkeypatch.setattr("time.sleep", nap)
        with pytest.raises(WaitingError), devices._locked(["0", "1", "2"], 2):
            pass
        assert others == ["2"]


def hold(folder: str, taken: Event, done: Event) -> None:
    """Another job, in a process of its own, that computes until it is told to stop."""
    devices.tempfile.gettempdir = lambda: folder  # type: ignore[method-assign, assignment]
    with devices._locked(["0"], 1):
        taken.set()
        done.wait()


def test_a_job_waits_until_another_process_gives_the_device_back(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    taken, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(host), taken, done))
    other.start()
    assert taken.wait(60)
    naps = []

    def nap(seconds: float) -> None:
        # Instead of sleeping: the other job ends while this one waits.
        naps.append(seconds)
        done.set()
        other.join()

    monkeypatch.setattr("time.sleep", nap)
    with devices._locked(["0"], 1) as names:
        assert names == ["0"]
    assert len(naps) == 1
    assert other.exitcode == 0


def test_a_killed_job_holds_nothing(host: Path) -> None:
    context = multiprocessing.get_context("fork")
    taken = context.Event()
    other = context.Process(target=hold, args=(str(host), taken, context.Event()))
    other.start()
    assert taken.wait(60)
    other.kill()
    other.join()
    with devices._locked(["0"], 1) as names:
        assert names == ["0"]


def test_threads_exclude_each_other_too(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    guard = threading.Lock()
    # A job that finds all devices taken hands the processor on and looks again.
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


def test_the_lock_is_one_that_other_programs_can_see(host: Path) -> None:
    with (
        devices._locked(["7"], 1),
        (host / "speechmill-devices" / "7.lock").open("a") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
