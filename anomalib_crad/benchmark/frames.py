# SPDX-License-Identifier: Apache-2.0

"""Results of cells as two flat tables, one of quality and one of cost, with every setting in each row.

A row can be read alone: it names what was run, with which settings, on which machine, and when. Tables for people and
plots are made from these.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd

from anomalib_crad.metrics.category import IMAGE_METRICS, METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib_crad.benchmark.cells import Cell
    from anomalib_crad.benchmark.plan import Plan

    Results = Sequence[tuple[Cell, dict[str, Any] | None]]

#: Rows of the mean and of all images under one score scale, beside those of the categories.
MEAN, POOLED = "mean", "pooled"
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
    "error",
    "image_score",
    "settings",
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
    "finished",
]


def quality_frame(plan: Plan, results: Results) -> pd.DataFrame:
    """Return a row for each category of each ``quality`` cell that has run, and for mean and pooled.

    Args:
        plan: What was compared.
        results: Cells and what came of them.

    Returns:
        The columns of :data:`QUALITY_COLUMNS`; a cell that failed has one row, with its ``error``.
    """
    rows = [
        {**_identity(cell), **row, "image_score": plan.models[cell.model].image_score}
        for cell, result in results
        if cell.kind == "quality" and result is not None
        for row in _quality_rows(result)
    ]
    return pd.DataFrame(rows, columns=QUALITY_COLUMNS)


def cost_frame(results: Results) -> pd.DataFrame:
    """Return a row for each ``cost`` cell that has run.

    Args:
        results: Cells and what came of them.

    Returns:
        The columns of :data:`COST_COLUMNS`.
    """
    rows = [
        {**_identity(cell), "runtime": cell.runtime, **_cost_row(result)}
        for cell, result in results
        if cell.kind == "cost" and result is not None
    ]
    return pd.DataFrame(rows, columns=COST_COLUMNS)


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "dataset": cell.dataset,
        "model": cell.model,
        "seed": cell.seed,
        "categories": cell.categories,
        "settings": json.dumps(cell.settings, sort_keys=True),
    }


def _quality_rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "error" in result:
        yield {"category": MEAN, "error": result["error"], "finished": result["finished"]}
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
        "finished": result["finished"],
    }
    own, common = _values(result["metrics"]), _values(result["common_metrics"])
    for category, values in own.items():
        renamed = {COMMON[name]: value for name, value in common.get(category, {}).items() if name in COMMON}
        yield {"category": category, **values, **renamed, **shared}


def _values(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    values = {name: entry["values"] for name, entry in report["categories"].items()}
    pooled = report[POOLED]
    return {**values, MEAN: report[MEAN], POOLED: {} if pooled is None else pooled["values"]}


def _cost_row(result: dict[str, Any]) -> dict[str, Any]:
    if "error" in result:
        return {"error": result["error"], "finished": result["finished"]}
    return {
        **result,
        "latency_ms_median": result["latency_ms"]["median"],
        "latency_ms_p90": result["latency_ms"]["p90"],
        "images_per_second": result["throughput"].get("images_per_second"),
        "batch_size": result["throughput"].get("batch_size"),
        "error": result["throughput"].get("error"),
        "load_average": result["load_average_before"],
    }
