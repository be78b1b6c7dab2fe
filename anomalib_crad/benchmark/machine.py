# SPDX-License-Identifier: Apache-2.0

"""The machine under a benchmark: what it is, what else it is doing, and what a process has taken of it."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anomalib_crad

_PACKAGES = ("anomalib", "torch", "timm", "lightning", "openvino")


def describe_machine() -> dict[str, Any]:
    """Describe processor, accelerator, memory and versions, as plain data."""
    # A process that measures OpenVINO has no torch in its memory, and gets none before it has measured.
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "anomalib_crad": anomalib_crad.__version__,
        **{package: _version(package) for package in _PACKAGES},
    }


def load_average() -> float | None:
    """Return the number of processes that wanted to run in the last minute; ``None`` where nothing counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak_memory() -> int | None:
    """Return the largest memory of this process so far, in bytes: of the accelerator if it was used, or resident.

    ``None`` where the system does not say, which is Windows.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        # Not from getrusage, whose peak on Linux begins with that of the process which started this one.
        peak = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return 1024 * int(peak.split()[1])
    try:
        import resource
    except ImportError:
        return None
    # Kilobytes, but on macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_error(error: BaseException) -> str:
    """Return type and first telling line of an error, for a table.

    Args:
        error: What was raised.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO begins with the places in its source that the error came through.
    telling = [line for line in lines if not line.startswith("Exception from")] or lines
    return f"{type(error).__name__}: {telling[0]}" if telling else type(error).__name__


def _memory() -> int | None:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
