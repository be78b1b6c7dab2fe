# SPDX-License-Identifier: Apache-2.0

"""The tables of a benchmark: CSV and JSON with every setting, Markdown for a page, a summary for the terminal.

Markdown shows the numbers of several seeds as their mean and the largest distance of a seed from it. With two or three
seeds, a standard deviation would promise more than is known.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd
from rich.table import Table

from anomalib_crad.benchmark.results import (
    COMMON,
    MEAN,
    MEBIBYTE,
    METRIC_COLUMNS,
    METRICS_BY_CATEGORY,
    POOLED,
    cost_rows,
    failure_list,
    quality_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from anomalib_crad.benchmark.plan import Plan
    from anomalib_crad.benchmark.results import Results


def write_tables(plan: Plan, results: Results, folder: Path) -> None:
    """Write ``quality.csv``, ``cost.csv``, ``results.json`` and ``tables.md``; existing ones are replaced.

    Args:
        plan: What was compared.
        results: Cells and their results, ``None`` for cells that have not run.
        folder: Folder for the files.
    """
    quality, cost = quality_rows(plan, results), cost_rows(results)
    quality.to_csv(folder / "quality.csv", index=False)
    cost.to_csv(folder / "cost.csv", index=False)
    content = {
        "plan": asdict(plan),
        "cells": [{**asdict(cell), "name": cell.name, "result": result} for cell, result in results],
    }
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    parts = []
    for dataset in plan.datasets:
        parts += [f"## {dataset}", quality_table(plan, quality, dataset)]
        parts += [category_table(plan, quality, dataset, metric) for metric in METRICS_BY_CATEGORY]
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


def quality_table(plan: Plan, quality: pd.DataFrame, dataset: str) -> str:
    """Return the models' metrics on one dataset, as means over categories, and the cost of their training.

    Args:
        plan: What was compared.
        quality: What :func:`.results.quality_rows` returns.
        dataset: Name of the dataset.

    Returns:
        A Markdown table, or an empty text where nothing was measured.
    """
    whole = quality[(quality["dataset"] == dataset) & quality["categories"].isna()]
    means = whole[(whole["category"] == MEAN) & whole["error"].isna()]
    pooled = whole[whole["category"] == POOLED]
    if means.empty:
        return ""
    metrics = [name for name in METRIC_COLUMNS if means[name].notna().any()]
    common = COMMON["image_AUROC"]
    rows = []
    for model in (name for name in plan.models if name in set(means["model"])):
        of_model = means[means["model"] == model]
        rows.append([
            model,
            *(_spread(of_model[name]) for name in metrics),
            _spread(of_model[common]),
            _spread(pooled[pooled["model"] == model]["image_AUROC"]),
            _number(of_model["epochs"].iloc[0], "{:.0f}"),
            _number(of_model["training_seconds"].mean(), "{:.0f}"),
            _number(of_model["training_images_per_second"].mean(), "{:.1f}"),
            _number(of_model["training_peak_memory_bytes"].max(), "{:.0f}", MEBIBYTE),
            f"{len(of_model)}",
        ])
    header = [
        "model",
        *(name.replace("_", " ") for name in metrics),
        "image AUROC, common pooling",
        "image AUROC, categories pooled",
        "epochs",
        "training s",
        "images/s in training",
        "peak MiB in training",
        "seeds",
    ]
    return markdown_table(header, rows)


def category_table(plan: Plan, quality: pd.DataFrame, dataset: str, metric: str) -> str:
    """Return one metric of each model in each category of a dataset.

    Args:
        plan: What was compared.
        quality: What :func:`.results.quality_rows` returns.
        dataset: Name of the dataset.
        metric: Name of the metric.

    Returns:
        A Markdown table, or an empty text where the metric was not measured.
    """
    chosen = quality[(quality["dataset"] == dataset) & quality["categories"].isna() & quality["error"].isna()]
    categories = [name for name in chosen["category"].unique() if name not in {MEAN, POOLED}]
    if chosen[metric].isna().all():
        return ""
    rows = [
        [
            model,
            *(
                _spread(chosen[(chosen["model"] == model) & (chosen["category"] == name)][metric])
                for name in (*categories, MEAN)
            ),
        ]
        for model in plan.models
        if model in set(chosen["model"])
    ]
    return markdown_table([metric.replace("_", " "), *categories, MEAN], rows)


def cost_table(plan: Plan, cost: pd.DataFrame, dataset: str) -> str:
    """Return the cost of each model on one dataset, in each runtime on the CPU.

    Args:
        plan: What was compared.
        cost: What :func:`.results.cost_rows` returns.
        dataset: Name of the dataset.

    Returns:
        A Markdown table, or an empty text where nothing was measured.
    """
    chosen = cost[(cost["dataset"] == dataset) & cost["categories"].isna() & cost["latency_ms_median"].notna()]
    if chosen.empty:
        return ""
    rows: list[list[str]] = []
    for model in plan.models:
        rows.extend(
            [
                model,
                str(row["runtime"]),
                f"{row['latency_ms_median']:.1f}",
                _number(row["latency_ms_p90"], "{:.1f}"),
                _number(row["images_per_second"], "{:.1f}"),
                _number(row["peak_memory_bytes"], "{:.0f}", MEBIBYTE),
                _number(row["peak_memory_bytes"] - row["memory_before_loading_bytes"], "{:.0f}", MEBIBYTE),
                _number(row["size_on_disk_bytes"], "{:.1f}", MEBIBYTE),
                _number(row["parameters"], "{:.2f}", 1e6),
                _number(row["stored_values"], "{:.2f}", 1e6),
                _number(row["multiply_adds"], "{:.2f}", 1e9),
            ]
            for row in chosen[chosen["model"] == model].to_dict("records")
        )
    batch, threads = chosen["batch_size"].dropna(), _number(chosen["threads"].iloc[0], "{:.0f}")
    header = [
        "model",
        "runtime",
        "latency ms, median",
        "p90",
        f"images/s at batch {int(batch.iloc[0])}" if len(batch) else "images/s",
        "peak MiB of the process",
        "of it the model's",
        "MiB on disk",
        "M parameters",
        "M stored values",
        "G multiply-adds",
    ]
    footer = f"On the CPU, whatever trained the model. Threads: {threads}. Batch 1 for latency."
    return f"{markdown_table(header, rows)}\n\n{footer}"


def summary_table(plan: Plan, results: Results) -> Table:
    """Return the table that a benchmark ends with on the terminal, in 80 columns.

    It has the metrics, the training time, and the exported model's latency and size of each model on each dataset.

    Args:
        plan: What was compared.
        results: Cells and their results.

    Returns:
        A table; a dash stands for a value that was not measured.
    """
    quality, cost = quality_rows(plan, results), cost_rows(results)
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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is aligned to the left and all others to the right.

    Args:
        header: Names of the columns.
        rows: Texts of the rows, in the order of the columns.
    """
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return "-"
    mean = values.mean()
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {(values - mean).abs().max():.3f}"


def _number(value: float, pattern: str, unit: float = 1.0) -> str:
    return "-" if pd.isna(value) else pattern.format(value / unit)


def _mean(values: pd.Series, pattern: str) -> str:
    value = pd.to_numeric(values).mean()
    return "-" if pd.isna(value) else pattern.format(value)
