# SPDX-License-Identifier: Apache-2.0

"""Results of cells as two flat tables, one of quality and one of cost, with every setting in each row.

A row can be read alone: it names what was run, with which settings, on which machine, and when. Tables for people and
plots are made from these.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd

from anomalib_crad.metrics.default_metrics import IMAGE_METRICS, METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib_crad.benchmark.cells import Cell
    from anomalib_crad.benchmark.plan import Plan

    Results = Sequence[tuple[Cell, dict[str, Any] | None]]

#: Rows of the mean and of all images under one score scale, beside those of the categories.
MEAN, POOLED = "mean", "pooled"
MEBIBYTE = 2**20
#: Columns of image metrics by the scores that are pooled alike for all models.
COMMON = {name: f"common_{name}" for name in IMAGE_METRICS}

_IDENTITY = ["dataset", "model", "seed", "categories"]
QUALITY_COLUMNS = [
    *_IDENTITY,
    "category",
    *METRIC_NAMES,
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
#: What is no number. All else is one, or empty: results hold what is not finite as text.
_TEXTS = {
    *("dataset", "model", "category", "runtime", "missing", "error", "image_score"),
    *("settings", "source_settings", "machine", "versions", "finished"),
}
#: What of a machine's description is no version of a package.
_MACHINE = ("processor", "cores", "memory_bytes", "accelerator", "system")


def quality_frame(plan: Plan, results: Results) -> pd.DataFrame:
    """Return a row for each category of each ``quality`` cell that has run, and for mean and pooled.

    Args:
        plan: What was compared.
        results: Cells and what came of them.

    Returns:
        The columns of :data:`QUALITY_COLUMNS`; a cell that failed has one row, with its ``error``, and metrics that do
        not exist are named in ``missing``, with the reason.
    """
    rows = [
        {**_identity(cell, result), **row, "image_score": plan.models[cell.model].image_score}
        for cell, result in results
        if cell.kind == "quality" and result is not None
        for row in _quality_rows(result)
    ]
    return _frame(rows, QUALITY_COLUMNS)


def cost_frame(results: Results) -> pd.DataFrame:
    """Return a row for each ``cost`` cell that has run.

    Args:
        results: Cells and what came of them.

    Returns:
        The columns of :data:`COST_COLUMNS`; ``source_settings`` are those of the model that was measured.
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
    return _frame(rows, COST_COLUMNS)


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=columns)
    numbers = [name for name in columns if name not in _TEXTS]
    frame[numbers] = frame[numbers].apply(pd.to_numeric, errors="coerce")
    return frame


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
        # A cell that failed does not say where.
        "machine": _text(machine) if machine else None,
        "versions": _text(versions) if versions else None,
        "finished": result["finished"],
    }


def _quality_rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
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
