# SPDX-License-Identifier: Apache-2.0

"""Run one cell in a process of its own: ``python -m anomalib_crad.benchmark.worker FOLDER``.

Each cell gets a process because peak memory is measured by process, because leftovers of one model must not slow down
the next, and because a killed cell must not end the benchmark. It reads ``cell.json`` and writes ``result.json``.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from anomalib_crad.benchmark.cells import (
    CELL_NAME,
    NO_MODEL,
    Cell,
    describe_error,
    outcome,
    read_result,
    write_result,
)
from anomalib_crad.freed_memory import freed_memory_kept
from anomalib_crad.provenance import describe_machine

logger = logging.getLogger(__name__)


def main(folder: Path) -> None:
    """Run the cell of a folder, and write its result or its error.

    Args:
        folder: Folder of the cell, beside the folder of its source.
    """
    warnings.simplefilter("ignore")
    cell = Cell.from_json((folder / CELL_NAME).read_text(encoding="utf-8"))
    began = time.monotonic()
    try:
        result = _run(cell, folder)
    except Exception as error:  # a model may fail in any way, and the table names the error
        logger.exception("%s", cell.title)
        result = {"error": describe_error(error)}
    write_result(folder, outcome(result, began))


def _run(cell: Cell, folder: Path) -> dict[str, Any]:
    if cell.kind == "quality":
        from anomalib_crad.benchmark.quality import run_quality

        # For every model, as our own do it by themselves.
        with freed_memory_kept() if cell.settings["accelerator"] == "cpu" else nullcontext():
            return {**run_quality(cell, folder), "machine": describe_machine()}

    from anomalib_crad.benchmark.cost import measure_cost

    assert cell.source is not None
    assert cell.runtime is not None
    path = _exported(folder.parent / cell.source, cell.runtime)
    return {**measure_cost(cell.runtime, path, cell.settings), "machine": describe_machine()}


def _exported(source: Path, runtime: str) -> Path:
    """Find the model that a ``quality`` cell exported, or raise an error with the reason why there is none."""
    result = read_result(source)
    if result is None or "error" in result:
        reason = "it has not finished" if result is None else result["error"]
        msg = f"{NO_MODEL}: {reason}"
        raise RuntimeError(msg)
    export = result["exports"][runtime]
    if "error" in export:
        msg = f"it cannot be exported: {export['error']}"
        raise RuntimeError(msg)
    return source / export["path"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
