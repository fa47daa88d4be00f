"""profiler: what the GPU does in a step of training: its kernels by time, and the share of each kind."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu.step import Step, synchronise
from gpu.watched import train_watched

# The kinds of kernels by parts of their names, the first that matches. Names on a CPU are those of operators.
_KINDS = (
    ("CTC loss", ("ctc", "log_softmax", "logsoftmax")),
    ("attention", ("flash", "fmha", "attention", "softmax")),
    ("convolution", ("conv", "cudnn", "dgrad", "wgrad", "implicit", "weight_norm")),
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("matrix product", ("gemm", "xmma", "cutlass", "nvjet", "mm", "linear")),
    ("normalisation", ("layer_norm", "layernorm", "rownorm", "group_norm")),
    ("copy", ("memcpy", "memset", "copy")),
    ("dropout and random numbers", ("dropout", "philox", "distribution", "bernoulli")),
    ("elementwise", ("elementwise", "vectorized", "gelu", "triton", "add", "mul", "div", "where", "masked")),
    ("reduction", ("reduce", "sum")),
)
_SHOWN = 25
_SECONDS, _SMALL_SECONDS = 200.0, 20.0


def kind_of(kernel: str) -> str:
    """Return the kind of a kernel by its name."""
    name = kernel.lower()
    return next((kind for kind, parts in _KINDS if any(part in name for part in parts)), "other")


def main(step: Step) -> None:
    """Record the profile of one step."""
    on_gpu = step.device.type == "cuda"
    found: dict[str, Any] = {}

    @contextmanager
    def profiled() -> Iterator[None]:
        activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
        synchronise(step.device)
        with profile(activities=activities) as profiler:
            started = time.monotonic()
            yield
            synchronise(step.device)
            found["seconds"] = time.monotonic() - started
        found["events"] = profiler.key_averages()

    train_watched(step, _SMALL_SECONDS if step.small else _SECONDS, profiled())
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in found["events"]:
        if on_gpu and event.device_type != DeviceType.CUDA:
            continue
        times[event.key] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
        calls[event.key] += event.count
    total = times.total() / 1e6
    step.measured(
        "a step in bf16",
        seconds=found["seconds"],
        busy_percent=100 * total / found["seconds"],
        kernels=calls.total(),
    )
    kinds: Counter[str] = Counter()
    for kernel, microseconds in times.items():
        kinds[kind_of(kernel)] += microseconds
    for kind, microseconds in kinds.most_common():
        step.measured(kind, percent=100 * microseconds / 1e6 / total, milliseconds=microseconds / 1000)
    for kernel, microseconds in times.most_common(_SHOWN):
        values = {"percent": 100 * microseconds / 1e6 / total, "calls": calls[kernel], "kind": kind_of(kernel)}
        step.measured(kernel[:100], **values)
