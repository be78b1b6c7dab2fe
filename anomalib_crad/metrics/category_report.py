# SPDX-License-Identifier: Apache-2.0

"""The report of one evaluation: the metrics of every category, their means, and ways to show and save them.

It holds numbers and names only. Means are plain means over the categories in which a metric exists. Metrics that do not
exist for a category are listed with the reason, so that a mean over fewer categories never passes as one over all.
Pooled metrics, of all categories on one score scale, show what a model with one threshold can reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from anomalib_crad.files import write_rows
from anomalib_crad.metrics.default_metrics import METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEAN = "mean"
POOLED = "pooled"


@dataclass(frozen=True)
class CategoryResult:
    """The metrics of one category; plain numbers and strings, so that it can be kept, pickled and written.

    Attributes:
        category: Name of the category.
        normal: Number of normal images.
        anomalous: Number of anomalous images.
        values: Metric name to value, for the metrics that exist.
        missing: Metric name to reason, for those that do not.
    """

    category: str
    normal: int
    anomalous: int
    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return counts, values and reasons as plain data, without the name of the category."""
        return {
            "normal": self.normal,
            "anomalous": self.anomalous,
            "values": self.values,
            "missing": self.missing,
        }


@dataclass(frozen=True)
class CategoryReport:
    """Metrics of all categories of one evaluation.

    Attributes:
        categories: One result a category, in the order in which they are shown.
        pooled: Result of the images of all categories together, or ``None`` if there is none. Defaults to ``None``.
        measured: Names of all metrics that were measured, in the order in which they are shown. Defaults to the eight
            of ``DEFAULT_METRICS``.
    """

    categories: tuple[CategoryResult, ...]
    pooled: CategoryResult | None = None
    measured: tuple[str, ...] = METRIC_NAMES

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that exist for at least one category or pooled."""
        return tuple(name for name in self.measured if any(name in result.values for result in self._results()))

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric over the categories in which it exists."""
        columns = {name: [r.values[name] for r in self.categories if name in r.values] for name in self.metrics}
        return {name: sum(column) / len(column) for name, column in columns.items() if column}

    @property
    def per_category(self) -> dict[str, float]:
        """The values of all categories under their names in loggers, such as ``image_AUROC/bottle``."""
        return {f"{name}/{r.category}": value for r in self.categories for name, value in r.values.items()}

    @property
    def pooled_values(self) -> dict[str, float]:
        """The pooled metrics under their names in loggers, such as ``pooled/image_AUROC``."""
        return {} if self.pooled is None else {f"{POOLED}/{name}": value for name, value in self.pooled.values.items()}

    @property
    def omissions(self) -> list[str]:
        """One sentence for each group of metrics that are missing in the same categories for the same reasons."""
        lacking_to_metrics: dict[str, list[str]] = {}
        for name in self.measured:
            reasons: dict[str, list[str]] = {}
            for result in self._results():
                if name in result.missing:
                    reasons.setdefault(result.missing[name], []).append(result.category)
            if reasons:
                lacking = "; ".join(f"{', '.join(categories)}: {reason}" for reason, categories in reasons.items())
                lacking_to_metrics.setdefault(lacking, []).append(name)
        return [
            f"{', '.join(names)} {'does' if len(names) == 1 else 'do'} not exist for {lacking}."
            for lacking, names in lacking_to_metrics.items()
        ]

    def _results(self) -> Iterator[CategoryResult]:
        """Yield the results of the categories, then the pooled one."""
        yield from self.categories
        if self.pooled is not None:
            yield self.pooled

    def rows(self) -> list[tuple[str, dict[str, float]]]:
        """Return names and values of the rows of table and file: each category, the mean, and the pooled metrics."""
        rows = [*((result.category, result.values) for result in self.categories), (MEAN, self.mean)]
        if self.pooled is not None:
            rows.append((POOLED, self.pooled.values))
        return rows

    def to_table(self) -> Table:
        """Return a table for the terminal: categories as rows, metrics as columns, mean and pooled metrics last."""
        # Without padding the eight default metrics fit into a terminal of 80 columns.
        table = Table(
            title="Test metrics per category, on raw scores",
            caption="\n".join(self.omissions) or None,
            padding=0,
        )
        table.add_column("category")
        for name in self.metrics:
            table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
        for number, (category, values) in enumerate(self.rows(), start=1):
            cells = (f"{values[name]:.4f}" if name in values else "-" for name in self.metrics)
            table.add_row(category, *cells, end_section=number == len(self.categories))
        return table

    def to_csv(self, path: str | Path) -> None:
        """Write the rows of the table at full precision; a value that does not exist is empty.

        Args:
            path: File to write; its folder is made, an existing file is replaced.

        Raises:
            OSError: If the file cannot be written.
        """
        rows = ({"category": category, **values} for category, values in self.rows())
        write_rows(path, ["category", *self.metrics], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole report as plain data: the result of each category, means and pooled metrics."""
        return {
            "categories": {result.category: result.to_dict() for result in self.categories},
            MEAN: self.mean,
            POOLED: None if self.pooled is None else self.pooled.to_dict(),
        }
