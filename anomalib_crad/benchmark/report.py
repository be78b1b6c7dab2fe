# SPDX-License-Identifier: Apache-2.0

"""The files of a benchmark: CSV and JSON with every setting, Markdown tables, plots."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from anomalib_crad.benchmark.failures import failure_list
from anomalib_crad.benchmark.plots import (
    plot_cost_against_categories,
    plot_metric_against_latency,
    plot_metric_per_category,
)
from anomalib_crad.benchmark.results import cost_frame, quality_frame
from anomalib_crad.benchmark.tables import category_table, cost_table, quality_table

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_crad.benchmark.plan import Plan
    from anomalib_crad.benchmark.results import Results

PLOTTED_METRICS = ("image_AUROC", "pixel_AUROC")


def write_tables(plan: Plan, results: Results, folder: Path) -> None:
    """Write ``quality.csv``, ``cost.csv``, ``results.json`` and ``tables.md``; existing ones are replaced.

    Args:
        plan: What was compared.
        results: Cells and what came of them, ``None`` for those that have not been run.
        folder: Folder for the files.
    """
    quality, cost = quality_frame(plan, results), cost_frame(results)
    quality.to_csv(folder / "quality.csv", index=False)
    cost.to_csv(folder / "cost.csv", index=False)
    plain = {
        "plan": asdict(plan),
        "cells": [{**asdict(cell), "name": cell.name, "result": result} for cell, result in results],
    }
    (folder / "results.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    parts = []
    for dataset in plan.datasets:
        parts += [f"## {dataset}", quality_table(plan, quality, dataset)]
        parts += [category_table(plan, quality, dataset, metric) for metric in PLOTTED_METRICS]
        parts.append(cost_table(plan, cost, dataset))
    pooling = "\n".join(f"- {name}: {entry.image_score}" for name, entry in plan.models.items())
    window = plan.score_window
    parts += [
        "## Image scores",
        f"{pooling}\n- common pooling: largest mean of the raw map over {window} x {window} pixels",
    ]
    failures = failure_list(results)
    if failures:
        parts += ["## Not run", failures]
    (folder / "tables.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def write_plots(plan: Plan, results: Results, folder: Path) -> None:
    """Write the plots for which there are results; existing ones are replaced.

    Args:
        plan: What was compared.
        results: Cells and what came of them.
        folder: Folder for the files.
    """
    quality, cost = quality_frame(plan, results), cost_frame(results)
    for dataset in plan.datasets:
        for metric in PLOTTED_METRICS:
            plot_metric_per_category(plan, quality, dataset, metric, folder / f"{dataset}_{metric}.png")
        plot_metric_against_latency(
            plan, quality, cost, dataset, "image_AUROC", folder / f"{dataset}_metric_against_latency.png"
        )
    plot_cost_against_categories(plan, quality, cost, folder / "cost_against_categories.png")
