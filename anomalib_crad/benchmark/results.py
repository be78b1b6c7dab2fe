# SPDX-License-Identifier: Apache-2.0

"""Results of cells as rows of two flat tables, quality and cost, and the problems among them with their reasons.

A row can be read alone: it names what was run, with which settings, on which machine, and when. Tables for people and
plots are made from these rows. A cell fails as a whole, or it runs and a part of it fails: the model does not take a
batch, or a training diverged and its scores cannot be ranked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd

from anomalib_crad.benchmark.cells import NO_MODEL
from anomalib_crad.metrics.category_report import MEAN, POOLED
from anomalib_crad.metrics.default_metrics import IMAGE_METRICS, METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib_crad.benchmark.cells import Cell
    from anomalib_crad.benchmark.plan import Plan

    Results = Sequence[tuple[Cell, dict[str, Any] | None]]

MEBIBYTE = 2**20
#: Columns of the metrics by each model's own scores, and of image metrics by scores pooled alike for all models.
METRIC_COLUMNS = tuple(METRIC_NAMES)
COMMON = {name: f"common_{name}" for name in IMAGE_METRICS}
#: Metrics that are tabulated and plotted for each category.
METRICS_BY_CATEGORY = ("image_AUROC", "pixel_AUROC")

_MAIN_METRIC = "image_AUROC"
_IDENTITY = ["dataset", "model", "seed", "categories"]
QUALITY_COLUMNS = [
    *_IDENTITY,
    "category",
    *METRIC_COLUMNS,
    *COMMON.values(),
    "training_seconds",
    "training_images_per_second",
    "epochs",
    "steps",
    "training_images",
    "training_peak_memory_bytes",
    "training_load_average",
    "test_seconds",
    "missing",
    "error",
    "image_score",
    "settings",
    "machine",
    "versions",
    "finished",
]
COST_COLUMNS = [
    *_IDENTITY,
    "runtime",
    "latency_ms_median",
    "latency_ms_p90",
    "images_per_second",
    "batch_size",
    "threads",
    "peak_memory_bytes",
    "memory_before_loading_bytes",
    "size_on_disk_bytes",
    "parameters",
    "stored_values",
    "multiply_adds",
    "load_average",
    "error",
    "settings",
    "source_settings",
    "machine",
    "versions",
    "finished",
]
#: Columns of text. All others hold numbers or are empty: results store numbers that are not finite as text.
_TEXTS = {
    *("dataset", "model", "category", "runtime", "missing", "error", "image_score"),
    *("settings", "source_settings", "machine", "versions", "finished"),
}
#: Entries of a machine's description that are not versions of packages.
_MACHINE = ("processor", "cores", "memory_bytes", "accelerator", "system")


def quality_rows(plan: Plan, results: Results) -> pd.DataFrame:
    """Return a row for each category of each ``quality`` cell that has run, and rows for mean and pooled.

    Args:
        plan: What was compared.
        results: Cells and their results.

    Returns:
        The columns of :data:`QUALITY_COLUMNS`. A cell that failed has one row, with its ``error``; ``missing`` names
        the metrics that do not exist, with the reason.
    """
    rows = [
        {**_identity(cell, result), **row, "image_score": plan.models[cell.model].image_score}
        for cell, result in results
        if cell.kind == "quality" and result is not None
        for row in _rows_of(result)
    ]
    return _table(rows, QUALITY_COLUMNS)


def cost_rows(results: Results) -> pd.DataFrame:
    """Return a row for each ``cost`` cell that has run.

    Args:
        results: Cells and their results.

    Returns:
        The columns of :data:`COST_COLUMNS`; ``source_settings`` are the settings of the measured model.
    """
    settings = {cell.name: _text(cell.settings) for cell, _ in results}
    rows = [
        {
            **_cost_row(result),
            **_identity(cell, result),
            "runtime": cell.runtime,
            "source_settings": settings.get(cell.source or ""),
        }
        for cell, result in results
        if cell.kind == "cost" and result is not None
    ]
    return _table(rows, COST_COLUMNS)


def _table(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns)
    numbers = [name for name in columns if name not in _TEXTS]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    return table


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _identity(cell: Cell, result: dict[str, Any]) -> dict[str, Any]:
    described = result.get("machine") or {}
    machine = {name: described[name] for name in _MACHINE if name in described}
    versions = {name: value for name, value in described.items() if name not in _MACHINE}
    return {
        "dataset": cell.dataset,
        "model": cell.model,
        "seed": cell.seed,
        "categories": cell.categories,
        "settings": _text(cell.settings),
        # The result of a failed cell does not name its machine.
        "machine": _text(machine) if machine else None,
        "versions": _text(versions) if versions else None,
        "finished": result["finished"],
    }


def _rows_of(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "error" in result:
        yield {"category": MEAN, "error": result["error"]}
        return
    training = result["training"]
    shared = {
        "training_seconds": training["seconds"],
        "training_images_per_second": training["images_per_second"],
        "epochs": training["epochs"],
        "steps": training["steps"],
        "training_images": training["training_images"],
        "training_peak_memory_bytes": training["peak_memory_bytes"],
        "training_load_average": training["load_average_before"],
        "test_seconds": result["test"]["seconds"],
    }
    own, common = _entries(result["metrics"]), _entries(result["common_metrics"])
    for category, entry in own.items():
        values = common.get(category, {"values": {}})["values"]
        renamed = {COMMON[name]: value for name, value in values.items() if name in COMMON}
        yield {"category": category, **entry["values"], **renamed, "missing": _missing(entry), **shared}


def _entries(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {**report["categories"], MEAN: {"values": report[MEAN]}, POOLED: report[POOLED] or {"values": {}}}


def _missing(entry: dict[str, Any]) -> str | None:
    reasons: dict[str, list[str]] = {}
    for metric, reason in entry.get("missing", {}).items():
        reasons.setdefault(reason, []).append(metric)
    return "; ".join(f"{', '.join(metrics)}: {reason}" for reason, metrics in reasons.items()) or None


def _cost_row(result: dict[str, Any]) -> dict[str, Any]:
    if "error" in result:
        return {"error": result["error"]}
    return {
        **result,
        "latency_ms_median": result["latency_ms"]["median"],
        "latency_ms_p90": result["latency_ms"]["p90"],
        "images_per_second": result["throughput"].get("images_per_second"),
        "batch_size": result["throughput"].get("batch_size"),
        "error": result["throughput"].get("error"),
        "load_average": result["load_average_before"],
    }


def problem(result: dict[str, Any]) -> str | None:
    """Return why a cell failed or what could not be measured; ``None`` if there is no problem.

    Missing pixel metrics are no problem: data without masks do not have them.

    Args:
        result: Result of the cell.
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
    """Return whether a cell failed only because its source left no model.

    Args:
        result: Result of the cell.
    """
    return NO_MODEL in result.get("error", "")


def problems(results: Results) -> Iterator[tuple[Cell, str]]:
    """Yield cells with their problems, without those that only follow from the failure of a cell that is yielded.

    Args:
        results: Cells and their results.
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
        results: Cells and their results.
    """
    return [f"{cell.title}: {reason}" for cell, reason in problems(results)]


def failure_list(results: Results) -> str:
    """Return problems as a Markdown list, with a line for each model and reason.

    Args:
        results: Cells and their results.
    """
    lines: dict[str, list[str]] = {}
    for cell, reason in problems(results):
        where = cell.dataset if cell.runtime is None else f"{cell.dataset} in {cell.runtime}"
        places = lines.setdefault(f"{cell.model}: {reason}", [])
        if where not in places:
            places.append(where)
    return "\n".join(f"- {line} ({', '.join(places)})" for line, places in lines.items())
