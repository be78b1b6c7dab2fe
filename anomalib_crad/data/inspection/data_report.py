# SPDX-License-Identifier: Apache-2.0

"""The report of an inspection: numbers of images of each kind, and their problems.

Immutable objects, made by ``inspect.py``; this file draws their table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from anomalib_crad.data.image_files import listed

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_MAX_KINDS = 2


@dataclass(frozen=True)
class Problem:
    """A problem of the data.

    Attributes:
        level: ``"error"`` if training or results would be wrong, ``"warning"`` if results say less than they seem to.
        category: The category, as in ``samples["category"]``.
        message: The problem in a sentence.
        files: The files that have it.
    """

    level: Literal["error", "warning"]
    category: str
    message: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line with the first few files."""
        where = f": {listed(self.files)}" if self.files else "."
        return f"Category '{self.category}': {self.message}{where}"


@dataclass(frozen=True)
class SubsetSummary:
    """The images of one category in one subset.

    Attributes:
        category: The category.
        subset: ``"train"``, ``"val"`` or ``"test"``.
        normal: Number of normal images.
        anomalous: Number of anomalous images.
        unlabelled: Number of images whose label is unknown.
        masks: Number of anomalous images with a mask.
        sizes: All sizes (width, height in pixels) of the images.
        modes: All of Pillow's modes of the images, such as ``"RGB"`` or ``"L"``.
    """

    category: str
    subset: str
    normal: int
    anomalous: int
    unlabelled: int
    masks: int
    sizes: tuple[tuple[int, int], ...]
    modes: tuple[str, ...]

    @property
    def total(self) -> int:
        """Number of images."""
        return self.normal + self.anomalous + self.unlabelled

    @property
    def counts(self) -> str:
        """Numbers of normal + anomalous images, then of unlabelled ones with a question mark."""
        text = f"{self.normal} + {self.anomalous}" if self.anomalous else str(self.normal)
        return f"{text} + {self.unlabelled} ?" if self.unlabelled else text


@dataclass(frozen=True)
class DataReport:
    """The result of an inspection.

    ``rich.print(report)`` prints a table with a row for each category, and the problems below.

    Attributes:
        subsets: Counts and sizes of each category and subset.
        problems: The problems, category by category.
    """

    subsets: tuple[SubsetSummary, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems that make training or results wrong."""
        return tuple(problem for problem in self.problems if problem.level == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems that make results say less than they seem to."""
        return tuple(problem for problem in self.problems if problem.level == "warning")

    def raise_for_errors(self) -> None:
        """Raise if there are errors.

        Raises:
            ValueError: With one line for each error.
        """
        if self.errors:
            msg = "The data have errors:\n" + "\n".join(map(str, self.errors))
            raise ValueError(msg)

    def table(self) -> Table:
        """Draw the counts.

        Returns:
            A row for each category: normal + anomalous images of each subset, masks in testing, sizes and channels.
        """
        table = Table(title="Images: normal + anomalous")
        for column in ("category", "train", "val", "test", "masks", "size", "channels"):
            table.add_column(column, justify="left" if column == "category" else "right")
        for category in dict.fromkeys(each.category for each in self.subsets):
            subsets = {each.subset: each for each in self.subsets if each.category == category}
            test = subsets.get("test")
            sizes = sorted({size for each in subsets.values() for size in each.sizes})
            modes = sorted({mode for each in subsets.values() for mode in each.modes})
            table.add_row(
                Text(category),
                *(subsets[name].counts if name in subsets else "-" for name in ("train", "val", "test")),
                f"{test.masks} of {test.anomalous}" if test and test.masks else "-",
                _kinds([f"{width} x {height}" for width, height in sizes]),
                _kinds(modes),
            )
        return table

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> RenderResult:  # noqa: PLW3201 - rich's
        """Draw the table and list the problems."""
        yield self.table()
        for problem in self.problems:
            style = "bold red" if problem.level == "error" else "yellow"
            yield Text.assemble((f"{problem.level.upper()} ", style), str(problem))
        if not self.problems:
            yield Text("No problems found.", style="green")


def _kinds(kinds: list[str]) -> str:
    shown = ", ".join(kinds[:_MAX_KINDS])
    return f"{shown} and {len(kinds) - _MAX_KINDS} more" if len(kinds) > _MAX_KINDS else shown
