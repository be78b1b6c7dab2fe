# SPDX-License-Identifier: Apache-2.0

"""What of a benchmark could not be run or measured, with its reason.

A cell fails as a whole, or it runs and something in it does not: a batch is not taken, or a training diverged and
leaves scores that cannot be ranked. A model that was not trained cannot be measured either, and is not named twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomalib_crad.benchmark.cells import NO_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib_crad.benchmark.cells import Cell
    from anomalib_crad.benchmark.results import Results

_MAIN_METRIC = "image_AUROC"


def problem(result: dict[str, Any]) -> str | None:
    """Return why a cell failed, or what of it could not be measured; ``None`` if there is nothing to say.

    Metrics of pixels, which data without masks do not have, are no problem.

    Args:
        result: What came of the cell.
    """
    if "error" in result:
        return result["error"]
    if "throughput" in result:
        return result["throughput"].get("error")
    reasons: dict[str, list[str]] = {}
    for category, entry in result["metrics"]["categories"].items():
        if _MAIN_METRIC in entry.get("missing", {}):
            reasons.setdefault(entry["missing"][_MAIN_METRIC], []).append(category)
    lines = [f"{reason} ({', '.join(categories)})" for reason, categories in reasons.items()]
    return f"no {_MAIN_METRIC}: {'; '.join(lines)}" if lines else None


def lacks_model(result: dict[str, Any]) -> bool:
    """Return whether a cell failed for no other reason than that its source left no model.

    Args:
        result: What came of the cell.
    """
    return NO_MODEL in result.get("error", "")


def problems(results: Results) -> Iterator[tuple[Cell, str]]:
    """Yield cells with their problems, but not what follows from the failure of another cell that is yielded.

    Args:
        results: Cells and what came of them.
    """
    by_name = {cell.name: result for cell, result in results}
    for cell, result in results:
        reason = None if result is None else problem(result)
        if result is None or reason is None:
            continue
        source = by_name.get(cell.source or "")
        if not (lacks_model(result) and source is not None and "error" in source):
            yield cell, reason


def failure_lines(results: Results) -> list[str]:
    """Return a line for each cell with a problem.

    Args:
        results: Cells and what came of them.
    """
    return [f"{cell.title}: {reason}" for cell, reason in problems(results)]


def failure_list(results: Results) -> str:
    """Return problems as a Markdown list, with a line for each model and reason.

    Args:
        results: Cells and what came of them.
    """
    lines: dict[str, list[str]] = {}
    for cell, reason in problems(results):
        where = cell.dataset if cell.runtime is None else f"{cell.dataset} in {cell.runtime}"
        places = lines.setdefault(f"{cell.model}: {reason}", [])
        if where not in places:
            places.append(where)
    return "\n".join(f"- {line} ({', '.join(places)})" for line, places in lines.items())
