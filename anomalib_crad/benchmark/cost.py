# SPDX-License-Identifier: Apache-2.0

"""The cost of a trained model in use: time, memory, arithmetic and disk, in PyTorch and in OpenVINO.

It measures the exported model as a user would run it, with pre- and post-processing inside, on an image that is in
memory already. Each runtime is measured in a process of its own, so that the memory of one does not count for another;
torch is imported for PyTorch only.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalib_crad.benchmark.cells import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def measure_cost(runtime: str, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure an exported model.

    Args:
        runtime: ``PyTorch`` or ``OpenVINO``.
        path: The exported file: ``.pt`` or ``.xml``.
        settings: The settings of :class:`.plan.CostPlan`, and ``image_size``.

    Returns:
        Latency in milliseconds (median, 90th percentile), throughput in images per second, peak memory and size on
        disk in bytes; for PyTorch also numbers of parameters, stored values and multiply-adds. As plain data.
    """
    # The memory before the model is loaded includes the libraries; a pickled model has classes of anomalib.
    import_module("anomalib.models" if runtime == "PyTorch" else "openvino")
    before = peak_memory()
    threads = settings["threads"] or os.cpu_count() or 1
    rng = np.random.default_rng(0)
    # Noise instead of zeros: features near zero lead to denormal numbers, which slow processors down.
    images = rng.random((settings["batch_size"], 3, *settings["image_size"]), dtype=np.float32)
    if runtime == "PyTorch":
        run, counts = _pytorch(path, threads, images[:1])
    else:
        run, counts = _openvino(path, threads, "LATENCY")
    load = load_average()
    latencies = _times(run, images[:1], settings["warm_up"], settings["runs"])
    result = {
        **counts,
        "latency_ms": {
            "median": 1000 * statistics.median(latencies),
            "p90": 1000 * float(np.quantile(latencies, 0.9)),
            "runs": len(latencies),
        },
        "threads": threads,
        "load_average_before": load,
        "size_on_disk_bytes": _size(path),
    }
    try:
        if runtime == "OpenVINO":
            del run  # a user holds one compiled model at a time
            run, _ = _openvino(path, threads, "THROUGHPUT")
        seconds = statistics.median(_times(run, images, 1, settings["batch_runs"]))
    except Exception as error:  # noqa: BLE001  # a model that takes only single images still has a latency
        result["throughput"] = {"error": f"a batch of {len(images)} is not taken: {describe_error(error)}"}
    else:
        result["throughput"] = {"images_per_second": len(images) / seconds, "batch_size": len(images)}
    return {**result, "peak_memory_bytes": peak_memory(), "memory_before_loading_bytes": before}


def load_average() -> float | None:
    """Return the mean number of runnable processes in the last minute; ``None`` if the system does not count them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak_memory() -> int | None:
    """Return the peak memory of this process so far, in bytes: on the accelerator if it was used, else resident.

    ``None`` on Windows, where the system does not tell.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        # Not from getrusage: on Linux its peak starts with the peak of the parent process.
        peak = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return 1024 * int(peak.split()[1])
    try:
        import resource
    except ImportError:
        return None
    # In kilobytes, but in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _times(run: Callable[[np.ndarray], object], images: np.ndarray, warm_up: int, runs: int) -> list[float]:
    for _ in range(warm_up):
        run(images)
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - began)
    return seconds


def _pytorch(path: Path, threads: int, image: np.ndarray) -> tuple[Callable[[np.ndarray], object], dict[str, Any]]:
    import torch

    torch.set_num_threads(threads)
    # Not `weights_only`: the benchmark itself has written this pickle, of a model of any class.
    model = torch.load(path, map_location="cpu", weights_only=False)["model"].eval().requires_grad_(requires_grad=False)

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return run, _counts(model, run, image)


def _counts(model: torch.nn.Module, run: Callable[[np.ndarray], object], image: np.ndarray) -> dict[str, Any]:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        run(image)
    return {
        "parameters": sum(value.numel() for value in model.parameters()),
        # A memory bank is no parameter, but a device stores and loads it like one.
        "stored_values": sum(value.numel() for value in model.state_dict().values()),
        "multiply_adds": counter.get_total_flops() // 2,
    }


def _openvino(path: Path, threads: int, hint: str) -> tuple[Callable[[np.ndarray], object], dict[str, Any]]:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # by default, processors that have bfloat16 use it
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": hint,
        # One request takes the whole batch, as in PyTorch.
        "NUM_STREAMS": 1,
    }
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return compiled.create_infer_request().infer, {}


def _size(path: Path) -> int:
    files = [path] if path.suffix != ".xml" else [path, path.with_suffix(".bin")]
    return sum(file.stat().st_size for file in files)
