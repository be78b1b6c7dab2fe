# SPDX-License-Identifier: Apache-2.0

"""Run the cells of a benchmark one after the other, and go on where it was stopped.

A cell that has a result is never run again, unless asked for; a cell that fails says why and the rest goes on. After
each cell the tables are written anew, so that a stopped run leaves those of what it had.
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
from anomalib_crad.benchmark.report import write_plots, write_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from anomalib_crad.benchmark.plan import Plan

logger = logging.getLogger(__name__)

LOG_NAME = "log.txt"
_LAST_LINES = 3


def run_benchmark(
    plan: Plan,
    folder: Path,
    console: Console,
    select: Sequence[str] = (),
    rerun: Sequence[str] = (),
) -> list[tuple[Cell, dict[str, Any] | None]]:
    """Run what has not finished yet, and write tables and plots.

    Args:
        plan: What is compared.
        folder: Where results are and go.
        console: Where progress is shown.
        select: Patterns of names (``quality-*-Crad-*``); only cells that match one are run. Defaults to all.
        rerun: Patterns of names; cells that match one are run although they have finished. Defaults to none.

    Returns:
        All cells with their results, ``None`` for those that have not been run.

    Raises:
        ValueError: If a pattern matches no cell.
        OSError: If the folder cannot be written.
    """
    cells = cells_of(plan)
    for pattern in (*select, *rerun):
        if not fnmatch.filter([cell.name for cell in cells], pattern):
            msg = f"'{pattern}' matches none of the {len(cells)} cells, such as '{cells[0].name}'."
            raise ValueError(msg)
    home = folder / "cells"
    home.mkdir(parents=True, exist_ok=True)
    waiting = [
        cell
        for cell in cells
        if (not select or _matches(cell, select)) and (_matches(cell, rerun) or read_result(home / cell.name) is None)
    ]
    console.print(f"{len(cells)} cells, {len(waiting)} to run; results: {folder}", soft_wrap=True)
    durations = _durations(home, cells)
    for number, cell in enumerate(waiting, start=1):
        left = _minutes_left(waiting[number - 1 :], durations)
        with console.status(f"{number}/{len(waiting)}  {cell.title}{left}"):
            result = _run(cell, home / cell.name, plan.models[cell.model].minutes_per_cell or plan.minutes_per_cell)
        durations.setdefault((cell.kind, cell.model), []).append(result["seconds"])
        left = _minutes_left(waiting[number:], durations)
        console.print(f"{number}/{len(waiting)}  {cell.title}: {_summary(result)}{left}", soft_wrap=True)
        write_tables(plan, _results(home, cells), folder)
    results = _results(home, cells)
    write_tables(plan, results, folder)
    write_plots(plan, results, folder)
    return results


def _matches(cell: Cell, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(cell.name, pattern) for pattern in patterns)


def _results(home: Path, cells: Sequence[Cell]) -> list[tuple[Cell, dict[str, Any] | None]]:
    return [(cell, read_result(home / cell.name)) for cell in cells]


def _run(cell: Cell, folder: Path, minutes: float | None) -> dict[str, Any]:
    """Run a cell in a process of its own and return its result, whatever happened to the process."""
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
    shutil.rmtree(folder / "engine", ignore_errors=True)  # checkpoints, of which the export has all that is used
    return result


def _last_lines(folder: Path) -> list[str]:
    lines = (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()][-_LAST_LINES:]


def _durations(home: Path, cells: Sequence[Cell]) -> dict[tuple[str, str], list[float]]:
    """Seconds of the cells that have run, by kind and model."""
    durations: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        result = read_result(home / cell.name)
        if result is not None:
            durations.setdefault((cell.kind, cell.model), []).append(result["seconds"])
    return durations


def _minutes_left(cells: Sequence[Cell], durations: dict[tuple[str, str], list[float]]) -> str:
    """Estimate what is left from what cells of the same kind and model took, or else from those of the same kind."""
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
        means = result["metrics"]["mean"]
        shown = [f"{name} {means[name]:.3f}" for name in ("image_AUROC", "pixel_AUROC") if name in means]
        return f"{', '.join(shown)}, {result['seconds']:.0f} s"
    return f"{result['latency_ms']['median']:.0f} ms at batch 1"
