import fcntl
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from speechmill import device
from speechmill.command import SpeechmillError
from speechmill.device import taken_device, visible_devices


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the locks of a host on which nobody else computes."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, host: Path) -> None:
    """Two devices that do nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_refused_with_the_key_to_change() -> None:
    with (
        pytest.raises(
            SpeechmillError, match=r"runs\.demo\.device is gpu, but the job sees none .* set runs\.demo\.dev"
        ),
        taken_device("gpu", "demo", 1),
    ):
        pass


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_was_not_granted_is_refused_though_it_is_there() -> None:
    with (
        pytest.raises(SpeechmillError, match=r"was granted none \(--resources gpu=0\)"),
        taken_device("gpu", "demo", 0),
    ):
        pass


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_the_processor_where_there_is_no_gpu() -> None:
    with taken_device("auto", "demo", 1) as taken:
        assert taken == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("wanted", "granted"), [("auto", 0), ("cpu", 0), ("cpu", 1)])
def test_a_gpu_is_left_alone_where_none_was_granted_or_asked_for(wanted: str, granted: int) -> None:
    with taken_device(wanted, "demo", granted) as taken:
        assert taken == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("wanted", ["gpu", "auto"])
def test_two_jobs_take_two_devices_and_see_no_other(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with taken_device(wanted, "one", 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # the other job is another process
        with taken_device(wanted, "other", 1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.usefixtures("two_gpus")
def test_a_job_that_fails_gives_its_device_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError), taken_device("gpu", "one", 1):
        raise RuntimeError
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with taken_device("gpu", "other", 1):
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
    # Slurm gives each job its own; both call it cuda:0.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    with taken_device("gpu", "one", 1) as first:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        with taken_device("gpu", "other", 1) as second:
            assert first.index == second.index == 0


def hold(folder: str, taken: Event, done: Event) -> None:
    """Another job, in a process of its own, that computes until it is told to stop."""
    device.tempfile.gettempdir = lambda: folder  # type: ignore[method-assign, assignment]
    with device._locked(["0"]):
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
    with device._locked(["0"]) as position:
        assert position == 0
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
    with device._locked(["0"]) as position:
        assert position == 0


def test_threads_exclude_each_other_too(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    guard = threading.Lock()
    # A job that finds all devices taken hands the processor on and looks again.
    monkeypatch.setattr("time.sleep", lambda seconds: threading.Event().wait(0))

    def job() -> None:
        nonlocal inside, most
        for _ in range(20):
            with device._locked(["0"]):
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
        device._locked(["7"]),
        (host / "speechmill-devices" / "7.lock").open("a") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
