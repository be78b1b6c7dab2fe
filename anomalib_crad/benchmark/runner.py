# SPDX-License-Identifier: Apache-2.0

"""Run the cells of a benchmark one after the other, and resume a stopped run.

A cell that has a result does not run again, unless the user asks for it or the cell that it measures runs again. If a
cell fails, its result holds the reason and the next one runs. The runner writes the tables after each cell, so that a
stopped run leaves tables of all finished cells.
"""

from __future__ import annotations

import fnmatch
import logging
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from anomalib_crad.benchmark.cells import CELL_NAME, Cell, cells_of, outcome, read_result, write_result
from anomalib_crad.benchmark.plots import write_plots
from anomalib_crad.benchmark.results import lacks_model, problem
from anomalib_crad.benchmark.tables import write_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from anomalib_crad.benchmark.plan import Plan
    from anomalib_crad.benchmark.results import Results

logger = logging.getLogger(__name__)

LOG_NAME = "log.txt"
_LAST_LINES = 3


def run_benchmark(
    plan: Plan,
    folder: Path,
    console: Console,
    select: Sequence[str] = (),
    rerun: Sequence[str] = (),
    retry_failed: bool = False,
) -> list[tuple[Cell, dict[str, Any] | None]]:
    """Run the cells that have not finished yet, and write tables and plots.

    Args:
        plan: What is compared.
        folder: Folder for results, which may hold those of an earlier run.
        console: Where progress is shown.
        select: Patterns of names (``quality-*-Crad-*``); only cells that match one are run. Defaults to all.
        rerun: Patterns of names; cells that match one run although they have finished, and so do the cells that
            measure them. Defaults to none.
        retry_failed: Whether failed cells run again. Defaults to ``False``.

    Returns:
        All cells with their results, ``None`` for cells that have not run.

    Raises:
        ValueError: If a pattern matches no cell, or a result cannot be read.
        OSError: If the folder cannot be written.
    """
    cells = cells_of(plan)
    check_patterns(cells, (*select, *rerun))
    home = folder / "cells"
    home.mkdir(parents=True, exist_ok=True)
    known = _results(home, cells)
    waiting = _waiting(known, select, rerun, retry_failed)
    console.print(f"{len(cells)} cells, {len(waiting)} to run; results: {folder}", soft_wrap=True)
    durations = _durations(known)
    for number, cell in enumerate(waiting, start=1):
        left = _minutes_left(waiting[number - 1 :], durations)
        with console.status(f"{number}/{len(waiting)}  {cell.title}{left}"):
            _discard_what_measured(cell, cells, home)
            minutes = plan.models[cell.model].minutes_per_cell
            result = _run(cell, home / cell.name, plan.minutes_per_cell if minutes is None else minutes)
        _note_duration(cell, result, durations)
        left = _minutes_left(waiting[number:], durations)
        console.print(f"{number}/{len(waiting)}  {cell.title}: {_summary(result)}{left}", soft_wrap=True)
        write_tables(plan, _results(home, cells), folder)
    results = _results(home, cells)
    write_tables(plan, results, folder)
    write_plots(plan, results, folder)
    return results


def check_patterns(cells: Sequence[Cell], patterns: Sequence[str]) -> None:
    """Refuse a pattern that matches no cell.

    Args:
        cells: All cells of a plan.
        patterns: Patterns of names.

    Raises:
        ValueError: If a pattern matches nothing; the message lists all names.
    """
    for pattern in patterns:
        if not any(_matches(cell, [pattern]) for cell in cells):
            names = "\n".join(cell.written_name for cell in cells)
            msg = f"'{pattern}' matches none of the {len(cells)} cells:\n{names}"
            raise ValueError(msg)


def _matches(cell: Cell, patterns: Sequence[str]) -> bool:
    names = (cell.name, cell.written_name)
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)


def _waiting(results: Results, select: Sequence[str], rerun: Sequence[str], retry_failed: bool) -> list[Cell]:
    """Choose the cells to run: unfinished ones, those asked for, and those whose source has run or will run again."""
    by_name = {cell.name: result for cell, result in results}
    waiting: dict[str, Cell] = {}
    for cell, result in results:
        source = by_name.get(cell.source or "")
        if select and not _matches(cell, select):
            continue
        reasons = (
            result is None,
            _matches(cell, rerun),
            cell.source in waiting,
            retry_failed and "error" in (result or {}),
            # Its source left no model then, but has one now.
            lacks_model(result or {}) and source is not None and "error" not in source,
        )
        if any(reasons):
            waiting[cell.name] = cell
    return list(waiting.values())


def _discard_what_measured(source: Cell, cells: Sequence[Cell], home: Path) -> None:
    """Remove measurements of an earlier run of a cell, which would be shown beside its new result."""
    for cell in cells:
        if cell.source == source.name:
            shutil.rmtree(home / cell.name, ignore_errors=True)


def _results(home: Path, cells: Sequence[Cell]) -> list[tuple[Cell, dict[str, Any] | None]]:
    return [(cell, read_result(home / cell.name)) for cell in cells]


def _run(cell: Cell, folder: Path, minutes: float | None) -> dict[str, Any]:
    """Run a cell in a process of its own and return its result, or an error if the process left none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / CELL_NAME).write_text(cell.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "anomalib_crad.benchmark.worker", str(folder.resolve())]
    began = time.monotonic()
    with (folder / LOG_NAME).open("w", encoding="utf-8") as log:
        try:
            ended = subprocess.run(  # noqa: S603  # this package's own worker
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=None if minutes is None else 60 * minutes,
            )
            reason = f"the process ended with code {ended.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"stopped after {minutes:g} minutes (minutes_per_cell)"
    result = read_result(folder)
    if result is None:
        result = outcome({"error": reason, "last_lines": _last_lines(folder)}, began)
        write_result(folder, result)
    shutil.rmtree(folder / "engine", ignore_errors=True)  # checkpoints; later cells use the export only
    return result


def _last_lines(folder: Path) -> list[str]:
    lines = (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()][-_LAST_LINES:]


def _durations(results: Results) -> dict[tuple[str, str], list[float]]:
    """Collect the seconds of the cells that have run, by kind and model."""
    durations: dict[tuple[str, str], list[float]] = {}
    for cell, result in results:
        if result is not None:
            _note_duration(cell, result, durations)
    return durations


def _note_duration(cell: Cell, result: dict[str, Any], durations: dict[tuple[str, str], list[float]]) -> None:
    """Add a cell's seconds, unless it failed: a failure often takes a moment only and would shorten the estimate."""
    if "error" not in result:
        durations.setdefault((cell.kind, cell.model), []).append(result["seconds"])


def _minutes_left(cells: Sequence[Cell], durations: dict[tuple[str, str], list[float]]) -> str:
    """Estimate the time left from the durations of cells of the same kind and model, or else of the same kind."""
    seconds = 0.0
    for cell in cells:
        same = durations.get((cell.kind, cell.model)) or [
            value for (kind, _), values in durations.items() if kind == cell.kind for value in values
        ]
        if not same:
            continue
        seconds += sum(same) / len(same)
    return f"; about {max(round(seconds / 60), 1)} min left" if seconds else ""


def _summary(result: dict[str, Any]) -> str:
    """Return the outcome of a cell in a few words."""
    if "error" in result:
        return f"failed after {result['seconds']:.0f} s, {result['error']}"
    if "metrics" in result:
        means = {name: value for name, value in result["metrics"]["mean"].items() if isinstance(value, float)}
        shown = [f"{name} {means[name]:.3f}" for name in ("image_AUROC", "pixel_AUROC") if name in means]
        return ", ".join([*shown, *filter(None, [problem(result)]), f"{result['seconds']:.0f} s"])
    return f"{result['latency_ms']['median']:.0f} ms at batch 1"
