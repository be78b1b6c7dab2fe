# SPDX-License-Identifier: Apache-2.0

"""What a tiny model costs: numbers that can be counted by hand, and what happens where a batch fails."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13
from torch import nn

from anomalib_crad.benchmark.cost import load_average, measure_cost, peak_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEBIBYTE = 2**20
SETTINGS = {"threads": 1, "warm_up": 1, "runs": 4, "batch_runs": 2, "batch_size": 3, "image_size": [8, 8]}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def measured(path: Path, *layers: nn.Module) -> dict[str, Any]:
    torch.save({"model": nn.Sequential(*layers)}, path)
    return measure_cost("PyTorch", path, SETTINGS)


def test_values_and_arithmetic_are_counted_exactly(tmp_path: Path) -> None:
    result = measured(tmp_path / "model.pt", nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    weights, norm, running = 4 * 3 * 9 + 4, 2 * 4, 2 * 4 + 1
    assert result["parameters"] == weights + norm
    assert result["stored_values"] == weights + norm + running
    assert result["multiply_adds"] == 6 * 6 * 4 * 3 * 9  # one image
    assert result["size_on_disk_bytes"] == (tmp_path / "model.pt").stat().st_size


def test_times_are_of_as_many_runs_threads_and_images_as_asked_for(tmp_path: Path) -> None:
    result = measured(tmp_path / "model.pt", nn.Conv2d(3, 4, 3))
    assert result["latency_ms"]["p90"] >= result["latency_ms"]["median"] > 0
    assert result["latency_ms"]["runs"] == 4
    assert result["threads"] == torch.get_num_threads() == 1
    assert result["throughput"]["images_per_second"] > 0
    assert result["throughput"]["batch_size"] == 3


def test_a_model_of_single_images_has_a_latency_and_says_why_it_takes_no_batch(tmp_path: Path) -> None:
    result = measured(tmp_path / "model.pt", nn.Flatten(0), nn.Linear(3 * 8 * 8, 1))
    assert result["latency_ms"]["median"] > 0
    assert result["throughput"]["error"].startswith("a batch of 3 is not taken: RuntimeError: ")
    assert "576" in result["throughput"]["error"]  # torch's own words about the shapes


def test_openvino_is_measured_with_both_of_its_files(tmp_path: Path) -> None:
    image = opset13.parameter([-1, 3, 8, 8], np.float32)
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Model([opset13.relu(image)], [image]), path)
    result = measure_cost("OpenVINO", path, SETTINGS)
    assert result["latency_ms"]["median"] > 0
    assert result["throughput"]["batch_size"] == 3
    assert result["size_on_disk_bytes"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert "parameters" not in result


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


def test_no_load_average_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "getloadavg")
    assert load_average() is None
