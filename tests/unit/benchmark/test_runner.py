# SPDX-License-Identifier: Apache-2.0

"""Running, stopping, resuming and failing, with workers that leave made-up results."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import made_up_results as made_up
import pytest
from rich.console import Console

from anomalib_crad.benchmark import runner
from anomalib_crad.benchmark.cells import NO_MODEL, Cell, cells_of, write_result
from anomalib_crad.benchmark.results import failure_lines
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


def shorten(names: list[str]) -> list[str]:
    return [name.rpartition("-")[0] for name in names]


def test_a_model_that_is_trained_anew_is_measured_anew(workers: Workers, tmp_path: Path) -> None:
    run_benchmark(made_up.plan(), tmp_path, console())
    workers.ran.clear()
    run_benchmark(made_up.plan(), tmp_path, console(), rerun=["quality-*-Crad-seed0-*"])
    crad = "products-Crad-seed0"
    assert shorten(workers.ran) == [f"quality-{crad}", f"cost-{crad}-PyTorch", f"cost-{crad}-OpenVINO"]


@pytest.mark.usefixtures("workers")
def test_a_measurement_of_an_earlier_training_does_not_stay(tmp_path: Path) -> None:
    run_benchmark(made_up.plan(), tmp_path, console())
    again = run_benchmark(made_up.plan(), tmp_path, console(), select=["quality-*"], rerun=["quality-*-Crad-seed0-*"])
    assert shorten([cell.name for cell, result in again if result is None]) == [
        "cost-products-Crad-seed0-PyTorch",
        "cost-products-Crad-seed0-OpenVINO",
    ]


@pytest.fixture
def failing(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str]], None]:
    """Let cells of the given kinds fail, as long as a set of them holds the kind."""

    def fail(kinds: set[str]) -> None:
        def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
            ended = workers.run(command, **options)
            folder = Path(command[-1])
            cell = Cell.from_json((folder / "cell.json").read_text(encoding="utf-8"))
            if cell.kind in kinds:
                reason = "ValueError: no data" if cell.kind == "quality" else f"RuntimeError: {NO_MODEL}: no data"
                write_result(folder, made_up.failure(reason))
            return ended

        monkeypatch.setattr(runner.subprocess, "run", run)

    return fail


def test_what_failed_is_run_again_when_asked_for_and_what_it_held_up_too(
    workers: Workers, tmp_path: Path, failing: Callable[[set[str]], None]
) -> None:
    failing({"quality", "cost"})
    run_benchmark(made_up.plan(), tmp_path, console())
    workers.ran.clear()
    run_benchmark(made_up.plan(), tmp_path, console())
    assert workers.ran == []
    failing(set())
    results = run_benchmark(made_up.plan(), tmp_path, console(), retry_failed=True)
    assert workers.ran == [cell.name for cell in cells_of(made_up.plan())]
    assert not failure_lines(results)


def test_a_measurement_that_lacked_its_model_is_made_up_for(
    workers: Workers, tmp_path: Path, failing: Callable[[set[str]], None]
) -> None:
    """As a run leaves it in which nothing but the measurements was selected."""
    failing({"cost"})
    run_benchmark(made_up.plan(), tmp_path, console())
    failing(set())
    workers.ran.clear()
    run_benchmark(made_up.plan(), tmp_path, console())
    assert workers.ran == [cell.name for cell in cells_of(made_up.plan()) if cell.kind == "cost"]


def test_a_failure_does_not_shorten_the_estimate(
    tmp_path: Path, failing: Callable[[set[str]], None], workers: Workers
) -> None:
    failing({"quality"})
    shown = console()
    run_benchmark(made_up.plan(cost=None), tmp_path, shown)
    assert workers.ran
    assert "min left" not in text_of(shown)


def test_a_result_that_cannot_be_read_is_named(workers: Workers, tmp_path: Path) -> None:
    run_benchmark(made_up.plan(), tmp_path, console())
    broken = tmp_path / "cells" / workers.ran[0] / "result.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"result\.json is broken \(.*\)\. Delete it"):
        run_benchmark(made_up.plan(), tmp_path, console())


@pytest.mark.usefixtures("workers")
def test_a_models_own_limit_is_the_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        limits.append(options["timeout"])
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(runner.subprocess, "run", run)
    models = {
        name: replace(entry, minutes_per_cell=own)
        for (name, entry), own in zip(made_up.plan().models.items(), (0.5, None), strict=True)
    }
    plan = made_up.plan(models=models, minutes_per_cell=2, cost=None, seeds=(0,))
    run_benchmark(plan, tmp_path, console())
    assert limits == [30, 120]


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
    message = (
        r"'quality-nuts\*' matches none of the 11 cells:\nquality-products-Crad-.*\ncost-products-PatchCore-seed0-1_cat"
    )
    with pytest.raises(ValueError, match=f"(?s){message}"):
        run_benchmark(made_up.plan(), tmp_path, console(), select=["quality-nuts*"])
    assert not (tmp_path / "cells").exists()


def test_a_pattern_may_name_a_model_as_the_plan_writes_it(workers: Workers, tmp_path: Path) -> None:
    plan = made_up.plan(models={"Crad-S": made_up.plan().models["Crad"]})
    for pattern in ("*Crad-S*", "*Crad_S*"):
        workers.ran.clear()
        run_benchmark(plan, tmp_path, console(), select=[pattern], rerun=["*"])
        assert len(workers.ran) == 4


@pytest.mark.usefixtures("workers")
def test_the_json_holds_every_setting_and_result(tmp_path: Path) -> None:
    run_benchmark(made_up.plan(), tmp_path, console())
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["plan"]["models"]["Crad"]["max_epochs"] == {"products": 3}
    assert content["cells"][0]["settings"]["class_path"] == "Crad"
    assert content["cells"][0]["result"]["metrics"]["mean"]["image_AUROC"] == pytest.approx(0.9)
