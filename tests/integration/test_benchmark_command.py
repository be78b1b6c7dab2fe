# SPDX-License-Identifier: Apache-2.0

"""The benchmark's command, with real workers: train, test, export and measure, fail and go on, resume."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anomalib_crad", "benchmark", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def benchmark(
    tiny_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Folder and outcome of one run: ours, one of anomalib's, and one that does not exist."""
    folder = tmp_path_factory.mktemp("benchmark")
    small: dict[str, Any] = {"backbone": "packaged_efficientnet_lite0"}
    plan = {
        "image_size": [64, 64],
        "accelerator": "cpu",
        "datasets": {
            "tiny": {
                "class_path": "MVTec",
                "init_args": {
                    "root": str(tiny_root),
                    "category": ["blue", "green"],
                    "train_batch_size": 4,
                    "eval_batch_size": 4,
                    "num_workers": 0,
                },
            }
        },
        "models": {
            "Crad": {
                "class_path": "Crad",
                "image_score": "largest mean",
                "init_args": {**small, "num_blocks": 1, "hidden_channels": 16},
                "max_epochs": 2,
            },
            "PaDiM": {
                "class_path": "Padim",
                "image_score": "maximum",
                "init_args": {**small, "layers": ["blocks.2", "blocks.4"], "n_features": 8},
            },
            "Nothing": {"class_path": "Padin", "image_score": "none"},
        },
        "cost": {"warm_up": 1, "runs": 3, "batch_runs": 1, "batch_size": 2},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    return folder, run("--config", "small.yaml", folder=folder)


def test_models_of_both_houses_are_measured_and_one_that_fails_says_why(
    benchmark: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = benchmark
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "'Padin' is no model of anomalib's or ours; near: Padim" in ended.stdout
    output = folder / "results" / "benchmark" / "small"
    quality = pd.read_csv(output / "quality.csv")
    means = quality[quality["category"] == "mean"].set_index("model")
    for column in ("image_AUROC", "pixel_AUPRO", "mAD", "common_image_AUROC"):
        assert means[column].notna().to_dict() == {"Crad": True, "PaDiM": True, "Nothing": False}
    assert means["epochs"].to_dict()["Crad"] == 2
    assert means["steps"].to_dict()["Crad"] == 8
    rows = pd.read_csv(output / "cost.csv").to_dict("records")
    costs = {(str(row["model"]), str(row["runtime"])): row for row in rows}
    for runtime in ("PyTorch", "OpenVINO"):
        for column in ("latency_ms_median", "size_on_disk_bytes", "images_per_second"):
            assert float(costs["Crad", runtime][column]) > 0
    assert float(costs["Crad", "PyTorch"]["multiply_adds"]) > 1e6
    padim = costs["PaDiM", "PyTorch"]
    assert float(padim["stored_values"]) > float(padim["parameters"])
    assert "## tiny" in (output / "tables.md").read_text(encoding="utf-8")


def test_started_again_it_has_nothing_to_do(benchmark: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = benchmark
    again = run("--config", "small.yaml", folder=folder)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "9 cells, 0 to run" in again.stdout
    assert "the same command with --retry-failed" in again.stdout


def test_a_result_that_is_broken_is_no_wrong_use_of_the_command(
    benchmark: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = benchmark
    broken = next((folder / "results").rglob("result.json"))
    content = broken.read_text(encoding="utf-8")
    broken.write_text("{", encoding="utf-8")
    ended = run("--config", "small.yaml", folder=folder)
    broken.write_text(content, encoding="utf-8")
    assert ended.returncode == 1
    assert "usage:" not in ended.stderr
    assert "result.json is broken" in ended.stderr


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    ended = run("--config", "missing.yaml", folder=tmp_path)
    assert ended.returncode == 2
    assert "There is no configuration 'missing.yaml'" in ended.stderr
