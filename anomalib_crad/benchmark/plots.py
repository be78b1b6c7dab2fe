# SPDX-License-Identifier: Apache-2.0

"""The plots of a benchmark: metric against latency, metric in each category, cost against the number of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from anomalib_crad.benchmark.results import (
    MEAN,
    MEBIBYTE,
    METRICS_BY_CATEGORY,
    POOLED,
    cost_rows,
    quality_rows,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from anomalib_crad.benchmark.plan import Plan
    from anomalib_crad.benchmark.results import Results

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def write_plots(plan: Plan, results: Results, folder: Path) -> None:
    """Write the plots for which there are results; existing ones are replaced.

    Args:
        plan: What was compared.
        results: Cells and their results.
        folder: Folder for the files.
    """
    quality, cost = quality_rows(plan, results), cost_rows(results)
    for dataset in plan.datasets:
        for metric in METRICS_BY_CATEGORY:
            plot_metric_per_category(plan, quality, dataset, metric, folder / f"{dataset}_{metric}.png")
        plot_metric_against_latency(
            plan, quality, cost, dataset, "image_AUROC", folder / f"{dataset}_metric_against_latency.png"
        )
    plot_cost_against_categories(plan, quality, cost, folder / "cost_against_categories.png")


def plot_metric_against_latency(
    plan: Plan, quality: pd.DataFrame, cost: pd.DataFrame, dataset: str, metric: str, path: Path
) -> bool:
    """Plot mean metric against latency, a point for each model and runtime; up and to the left is better.

    Args:
        plan: What was compared.
        quality: What :func:`.results.quality_rows` returns.
        cost: What :func:`.results.cost_rows` returns.
        dataset: Name of the dataset.
        metric: Name of the metric.
        path: File to write.

    Returns:
        Whether there was anything to plot.
    """
    means = quality[(quality["dataset"] == dataset) & quality["categories"].isna() & (quality["category"] == MEAN)]
    values = means.groupby("model")[metric].mean().dropna()
    times = cost[(cost["dataset"] == dataset) & cost["categories"].isna() & cost["latency_ms_median"].notna()]
    times = times[times["model"].isin(values.index)]
    if times.empty:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, model in enumerate(plan.models):
        for row in times[times["model"] == model].to_dict("records"):
            axes.plot(
                row["latency_ms_median"],
                values[model],
                _MARKERS[number % len(_MARKERS)],
                color=_colour(number),
                markersize=9,
                fillstyle="full" if row["runtime"] == "OpenVINO" else "none",
                label=f"{model}, {row['runtime']}",
            )
    axes.set_xscale("log")
    _write_out_numbers(axes.xaxis)
    axes.set_xlabel("latency at batch 1, median, ms")
    axes.set_ylabel(f"{metric.replace('_', ' ')}, mean over categories")
    axes.set_title(f"{dataset}: filled in OpenVINO, hollow in PyTorch")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    return True


def plot_metric_per_category(plan: Plan, quality: pd.DataFrame, dataset: str, metric: str, path: Path) -> bool:
    """Plot a metric: a group of bars for each category, a bar for each model; a line spans the seeds.

    Args:
        plan: What was compared.
        quality: What :func:`.results.quality_rows` returns.
        dataset: Name of the dataset.
        metric: Name of the metric.
        path: File to write.

    Returns:
        Whether there was anything to plot.
    """
    chosen = quality[(quality["dataset"] == dataset) & quality["categories"].isna() & quality[metric].notna()]
    models = [model for model in plan.models if model in set(chosen["model"])]
    if not models:
        return False
    categories = [*(name for name in chosen["category"].unique() if name not in {MEAN, POOLED}), MEAN]
    figure = Figure(figsize=(max(6.0, 1.6 * len(categories) + 2), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        of_model = chosen[chosen["model"] == model].groupby("category")[metric]
        means, lowest, highest = (of_model.agg(name).reindex(categories) for name in ("mean", "min", "max"))
        places = [index + (number - (len(models) - 1) / 2) * width for index in range(len(categories))]
        axes.bar(places, means, width, color=_colour(list(plan.models).index(model)), label=model)
        axes.vlines(places, lowest, highest, color="black", linewidth=1)
    axes.set_xticks(range(len(categories)), categories)
    axes.set_ylabel(metric.replace("_", " "))
    axes.set_ylim(min(0.5, float(chosen[metric].min())), 1.0)
    axes.set_title(dataset)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    return True


def plot_cost_against_categories(plan: Plan, quality: pd.DataFrame, cost: pd.DataFrame, path: Path) -> bool:
    """Plot latency, size and training time against the number of categories that one model serves.

    A network that does not grow with its data is measured once, for all categories, and drawn as a level line. Training
    time has a point for each measurement.

    Args:
        plan: What was compared.
        quality: What :func:`.results.quality_rows` returns.
        cost: What :func:`.results.cost_rows` returns.
        path: File to write.

    Returns:
        Whether there was anything to plot.
    """
    dataset = plan.categories_of
    cost = cost[(cost["dataset"] == dataset) & (cost["runtime"] == "OpenVINO") & cost["latency_ms_median"].notna()]
    if dataset is None or cost.empty:
        return False
    total = len(plan.datasets[dataset].init_args["category"])
    cost = cost.assign(categories=cost["categories"].fillna(total))
    training = quality[(quality["dataset"] == dataset) & (quality["category"] == MEAN) & quality["error"].isna()]
    training = training.assign(categories=training["categories"].fillna(total))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for number, (model, entry) in enumerate(plan.models.items()):
        for axes, frame, column, unit in (
            (panels[0], cost, "latency_ms_median", 1),
            (panels[1], cost, "size_on_disk_bytes", MEBIBYTE),
            (panels[2], training, "training_seconds", 1),
        ):
            points = frame[frame["model"] == model].groupby("categories", as_index=False)[[column]].mean()
            level = not entry.cost_grows and column != "training_seconds"
            _line(axes, points["categories"], points[column] / unit, level, total, model, number)
    for axes, label in zip(
        panels, ("OpenVINO latency at batch 1, ms", "OpenVINO size on disk, MiB", "training, s"), strict=True
    ):
        axes.set_xlabel("categories in one model")
        axes.set_ylabel(label)
        axes.set_yscale("log")
        _write_out_numbers(axes.yaxis)
        axes.set_xticks(range(1, total + 1))
        axes.grid(alpha=0.3, which="both")
    panels[2].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    return True


def _line(
    axes: Axes, categories: pd.Series, values: pd.Series, level: bool, total: int, model: str, number: int
) -> None:
    colour, marker = _colour(number), _MARKERS[number % len(_MARKERS)]
    if values.empty:
        return  # a model that has not run has no place in the legend
    if level:
        axes.hlines(values.iloc[-1], 1, total, color=colour, linestyle=":")
    axes.plot(categories, values, marker=marker, color=colour, label=model)


def _write_out_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with numbers such as 6 and 20, where matplotlib writes powers of ten."""
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
