# SPDX-License-Identifier: Apache-2.0

"""Running, stopping, resuming and failing, with workers that leave made-up results."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import made_up_results as made_up
import pytest
from rich.console import Console

from anomalib_crad.benchmark import runner
from anomalib_crad.benchmark.cells import Cell, cells_of, write_result
from anomalib_crad.benchmark.runner import run_benchmark

if TYPE_CHECKING:
    from collections.abc import Callable


class Workers:
    """Stands in for the processes; knows which cells were run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def run(self, command: list[str], **options: object) -> subprocess.CompletedProcess:
        folder = Path(command[-1])
        cell = Cell.from_json((folder / "cell.json").read_text(encoding="utf-8"))
        self.ran.append(cell.name)
        self.before()
        write_result(folder, made_up.result(cell))
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    stand_in = Workers()
    monkeypatch.setattr(runner.subprocess, "run", stand_in.run)
    return stand_in


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def text_of(used: Console) -> str:
    assert isinstance(used.file, io.StringIO)
    return used.file.getvalue()


def test_every_cell_runs_once_in_order_and_reports_are_written(workers: Workers, tmp_path: Path) -> None:
    shown = console()
    results = run_benchmark(made_up.plan(), tmp_path, shown)
    assert workers.ran == [cell.name for cell in cells_of(made_up.plan())]
    assert all(result is not None for _, result in results)
    for name in ("quality.csv", "cost.csv", "results.json", "tables.md", "cost_against_categories.png"):
        assert (tmp_path / name).stat().st_size > 0, name
    assert "11/11  PatchCore on products, 1 of its categories, seed 0: cost in OpenVINO: 12 ms" in text_of(shown)
    assert "min left" in text_of(shown)


def test_what_has_finished_is_not_run_again_unless_asked_for(workers: Workers, tmp_path: Path) -> None:
    run_benchmark(made_up.plan(), tmp_path, console())
    workers.ran.clear()
    run_benchmark(made_up.plan(), tmp_path, console())
    assert workers.ran == []
    run_benchmark(made_up.plan(), tmp_path, console(), rerun=["quality-*-Crad-seed1-*"])
    assert [name.rpartition("-")[0] for name in workers.ran] == ["quality-products-Crad-seed1"]


def test_a_stopped_run_goes_on_where_it_was(workers: Workers, tmp_path: Path) -> None:
    def stop_at_third() -> None:
        if len(workers.ran) == 3:
            raise KeyboardInterrupt

    workers.before = stop_at_third
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(made_up.plan(), tmp_path, console())
    assert "Crad" in (tmp_path / "tables.md").read_text(encoding="utf-8")
    stopped, workers.ran, workers.before = workers.ran, [], lambda: None
    run_benchmark(made_up.plan(), tmp_path, console())
    assert workers.ran == [cell.name for cell in cells_of(made_up.plan())][2:]
    assert workers.ran[0] == stopped[2]


def test_only_what_was_selected_is_run(workers: Workers, tmp_path: Path) -> None:
    results = run_benchmark(made_up.plan(), tmp_path, console(), select=["quality-*PatchCore-seed0-*"])
    assert len(workers.ran) == 2
    assert sum(result is None for _, result in results) == len(results) - 2


def test_a_process_that_dies_is_reported_and_the_rest_goes_on(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        if not workers.ran:
            workers.ran.append("died")
            options["stdout"].write("warming up\nout of memory\n")  # type: ignore[attr-defined]
            return subprocess.CompletedProcess(command, 137)
        return workers.run(command)

    monkeypatch.setattr(runner.subprocess, "run", run)
    results = run_benchmark(made_up.plan(), tmp_path, console())
    assert results[0][1] is not None
    assert results[0][1]["error"] == "the process ended with code 137"
    assert results[0][1]["last_lines"] == ["warming up", "out of memory"]
    assert all(result is not None and "error" not in result for _, result in results[1:])


def test_a_cell_that_takes_too_long_is_stopped_and_says_so(tmp_path: Path, workers: Workers) -> None:
    def too_long() -> None:
        raise subprocess.TimeoutExpired([], 150)

    workers.before = too_long
    shown = console()
    run_benchmark(made_up.plan(minutes_per_cell=2.5), tmp_path, shown, select=["quality-*-Crad-seed0-*"])
    assert "stopped after 2.5 minutes (minutes_per_cell)" in text_of(shown)
    assert "stopped after 2.5 minutes" in (tmp_path / "tables.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("workers")
def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'quality-nuts\*' matches none of the 11 cells, such as 'quality-products-"):
        run_benchmark(made_up.plan(), tmp_path, console(), select=["quality-nuts*"])
    assert not (tmp_path / "cells").exists()


@pytest.mark.usefixtures("workers")
def test_the_json_holds_every_setting_and_result(tmp_path: Path) -> None:
    run_benchmark(made_up.plan(), tmp_path, console())
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["plan"]["models"]["Crad"]["max_epochs"] == {"products": 3}
    assert content["cells"][0]["settings"]["class_path"] == "Crad"
    assert content["cells"][0]["result"]["metrics"]["mean"]["image_AUROC"] == pytest.approx(0.9)
