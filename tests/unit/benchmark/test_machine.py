# SPDX-License-Identifier: Apache-2.0

"""What a process is said to have taken of its machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.benchmark.cells import describe_error
from anomalib_crad.benchmark.cost import load_average, peak_memory
from anomalib_crad.provenance import describe_machine

if TYPE_CHECKING:
    import pytest

MEBIBYTE = 2**20


def test_peak_memory_counts_what_has_been_freed() -> None:
    before = peak_memory() or 0
    held = np.ones(before + 64 * MEBIBYTE, dtype=np.uint8)
    del held
    assert (peak_memory() or 0) > before + 64 * MEBIBYTE


def test_peak_memory_does_not_count_the_process_that_started_this_one() -> None:
    held = np.ones(512 * MEBIBYTE, dtype=np.uint8)
    lines = ("from anomalib_crad.benchmark.cost import peak_memory", "print(peak_memory())")
    answer = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < held.nbytes


def test_an_error_is_named_by_its_first_telling_line() -> None:
    error = RuntimeError("Exception from src/core.cpp:1:\nCheck 'shape' failed\nmore")
    assert describe_error(error) == "RuntimeError: Check 'shape' failed"
    assert describe_error(KeyError()) == "KeyError"


def test_what_a_system_does_not_say_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    for name in ("sysconf", "getloadavg"):
        monkeypatch.delattr(os, name)
    assert load_average() is None
    described = describe_machine()
    assert described["memory_bytes"] is None
    assert described["cores"] == os.cpu_count()
