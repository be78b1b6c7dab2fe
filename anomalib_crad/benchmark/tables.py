# SPDX-License-Identifier: Apache-2.0

"""Markdown tables of a benchmark, for a page of documentation.

Numbers of several seeds are shown as their mean and, after it, how far the seeds lie from it at most: with two or three
seeds a standard deviation would pretend to more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from anomalib_crad.benchmark.results import COMMON, MEAN, MEBIBYTE, POOLED
from anomalib_crad.metrics.default_metrics import METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomalib_crad.benchmark.plan import Plan


def quality_table(plan: Plan, quality: pd.DataFrame, dataset: str) -> str:
    """Return the models' metrics on one dataset: means over categories, and what the training took.

    Args:
        plan: What was compared.
        quality: What :func:`.frames.quality_frame` returns.
        dataset: Name of the dataset.

    Returns:
        A Markdown table, or an empty text where nothing was measured.
    """
    whole = quality[(quality["dataset"] == dataset) & quality["categories"].isna()]
    means = whole[(whole["category"] == MEAN) & whole["error"].isna()]
    pooled = whole[whole["category"] == POOLED]
    if means.empty:
        return ""
    metrics = [name for name in METRIC_NAMES if means[name].notna().any()]
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
        quality: What :func:`.frames.quality_frame` returns.
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
    """Return what each model costs on one dataset, in each runtime on the CPU.

    Args:
        plan: What was compared.
        cost: What :func:`.frames.cost_frame` returns.
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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; numbers are set to the right.

    Args:
        header: Names of the columns.
        rows: Texts of the cells.
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
