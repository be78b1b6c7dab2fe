# SPDX-License-Identifier: Apache-2.0

"""The table that a benchmark ends with on the terminal: what most people want to know, in 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.table import Table

from anomalib_crad.benchmark.results import MEAN, MEBIBYTE, cost_frame, quality_frame

if TYPE_CHECKING:
    from anomalib_crad.benchmark.plan import Plan
    from anomalib_crad.benchmark.results import Results


def summary_table(plan: Plan, results: Results) -> Table:
    """Return metrics, training time and the exported model's latency and size of each model on each dataset.

    Args:
        plan: What was compared.
        results: Cells and what came of them.

    Returns:
        A table; a dash stands for what was not or could not be measured.
    """
    quality, cost = quality_frame(plan, results), cost_frame(results)
    means = quality[(quality["category"] == MEAN) & quality["categories"].isna()]
    exported = cost[(cost["runtime"] == "OpenVINO") & cost["categories"].isna()]
    table = Table(title="Means over categories and seeds; OpenVINO at batch 1 on the CPU", padding=(0, 1))
    table.add_column("dataset")
    table.add_column("model")
    for name in ("image\nAUROC", "pixel\nAUROC", "training\ns", "OpenVINO\nms", "disk\nMiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for dataset in plan.datasets:
        for model in plan.models:
            of_model = means[(means["dataset"] == dataset) & (means["model"] == model)]
            shipped = exported[(exported["dataset"] == dataset) & (exported["model"] == model)]
            table.add_row(
                dataset,
                model,
                _mean(of_model["image_AUROC"], "{:.3f}"),
                _mean(of_model["pixel_AUROC"], "{:.3f}"),
                _mean(of_model["training_seconds"], "{:.0f}"),
                _mean(shipped["latency_ms_median"], "{:.1f}"),
                _mean(shipped["size_on_disk_bytes"] / MEBIBYTE, "{:.1f}"),
                end_section=model == list(plan.models)[-1],
            )
    return table


def _mean(values: pd.Series, pattern: str) -> str:
    value = pd.to_numeric(values).mean()
    return "-" if pd.isna(value) else pattern.format(value)
