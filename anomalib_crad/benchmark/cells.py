# SPDX-License-Identifier: Apache-2.0

"""The cells of a benchmark: each runs independently, in a process of its own, and leaves one file with its result.

The name of a cell's folder says what ran and ends with a hash of all settings that decide about the result. A later run
finds a finished cell by that name, and a changed setting makes another name.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anomalib_crad.files import staged_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib_crad.benchmark.plan import Plan

CELL_NAME = "cell.json"
RESULT_NAME = "result.json"
RUNTIMES = ("PyTorch", "OpenVINO")
#: Begins the error of a ``cost`` cell whose source left no model; the error of the source follows.
NO_MODEL = "there is no trained model to measure"
Kind = Literal["quality", "cost"]


@dataclass(frozen=True)
class Cell:
    """One piece of a benchmark.

    Attributes:
        kind: ``quality`` trains a model, tests it and exports it; ``cost`` measures the export.
        model: Name of the model in the plan.
        dataset: Name of the dataset in the plan.
        seed: Seed of everything random.
        settings: All settings that decide about the result, as plain data.
        categories: How many of the dataset's categories are used, the first ones; ``None`` for all.
        source: Name of the ``quality`` cell that a ``cost`` cell measures.
        runtime: Runtime in which a ``cost`` cell measures it, one of :data:`RUNTIMES`.
    """

    kind: Kind
    model: str
    dataset: str
    seed: int
    settings: dict[str, Any]
    categories: int | None = None
    source: str | None = None
    runtime: str | None = None

    @property
    def name(self) -> str:
        """Name of the cell and of its folder."""
        *parts, identity = self._parts()
        return "-".join([*map(file_name, parts), identity])

    @property
    def written_name(self) -> str:
        """The name with model and dataset written as in the plan, for patterns."""
        return "-".join(self._parts())

    def _parts(self) -> list[str]:
        parts = [self.kind, self.dataset, self.model, f"seed{self.seed}"]
        if self.categories is not None:
            parts.append(f"{self.categories}_categories")
        if self.runtime is not None:
            parts.append(self.runtime)
        identity = json.dumps([self.settings, self.categories, self.source], sort_keys=True)
        return [*parts, hashlib.sha256(identity.encode()).hexdigest()[:8]]

    @property
    def title(self) -> str:
        """The cell in words."""
        some = "" if self.categories is None else f", {self.categories} of its categories"
        what = self.kind if self.runtime is None else f"{self.kind} in {self.runtime}"
        return f"{self.model} on {self.dataset}{some}, seed {self.seed}: {what}"

    def to_json(self) -> str:
        """Return the cell as text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Undo :meth:`to_json`.

        Args:
            text: What it returned.
        """
        return cls(**json.loads(text))


def cells_of(plan: Plan) -> list[Cell]:
    """Divide a plan into cells, in the order in which they run.

    All ``quality`` cells come first and all ``cost`` cells last, so that costs are measured close in time, on the same
    machine in the same state.

    Args:
        plan: What is compared.

    Returns:
        The cells; each ``cost`` cell comes after its source.
    """
    seeds = sorted({seed for model in plan.models for seed in plan.seeds_of(model)})
    quality = [
        _quality(plan, model, dataset, seed)
        for seed in seeds
        for dataset in plan.datasets
        for model in plan.models
        if seed in plan.seeds_of(model)
    ]
    if plan.cost is None:
        return quality
    measured = [cell for cell in quality if cell.seed == plan.seeds_of(cell.model)[0]]
    parts = list(_parts(plan))
    return [*quality, *parts, *(_cost(plan, cell, runtime) for cell in (*measured, *parts) for runtime in RUNTIMES)]


def _parts(plan: Plan) -> Iterator[Cell]:
    """Yield cells of the models that grow with their data, on one category of a dataset, on two, up to all but one."""
    if plan.categories_of is None:
        return
    categories = plan.datasets[plan.categories_of].init_args.get("category")
    for model, entry in plan.models.items():
        if entry.cost_grows and isinstance(categories, list):
            for number in range(1, len(categories)):
                yield _quality(plan, model, plan.categories_of, plan.seeds_of(model)[0], number)


def _quality(plan: Plan, model: str, dataset: str, seed: int, categories: int | None = None) -> Cell:
    entry = plan.models[model]
    settings = {
        "class_path": entry.class_path,
        "init_args": entry.init_args,
        "max_epochs": entry.epochs_on(dataset),
        "train_batch_size": entry.train_batch_size,
        "dataset": asdict(plan.datasets[dataset]),
        "image_size": list(plan.image_size),
        "score_window": plan.score_window,
        "accelerator": plan.accelerator,
    }
    return Cell("quality", model, dataset, seed, settings, categories)


def _cost(plan: Plan, source: Cell, runtime: str) -> Cell:
    settings = {**asdict(plan.cost), "image_size": list(plan.image_size)}  # type: ignore[arg-type]  # a plan without cost has no such cells
    return Cell("cost", source.model, source.dataset, source.seed, settings, source.categories, source.name, runtime)


def file_name(text: str) -> str:
    """Replace the characters of a text that file names cannot hold or that separate the parts of a cell's name.

    Args:
        text: Such as the name of a model.
    """
    return "".join(character if character.isalnum() or character in "_." else "_" for character in text)


def outcome(result: dict[str, Any], began: float) -> dict[str, Any]:
    """Add duration and time of the end to a result.

    Args:
        result: What was measured, or the error.
        began: ``time.monotonic()`` at the start.
    """
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {**result, "seconds": round(time.monotonic() - began, 3), "finished": finished}


def describe_error(error: BaseException) -> str:
    """Return the type and the first informative line of an error, for a table.

    Args:
        error: The error.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO's errors begin with places in its source.
    informative = [line for line in lines if not line.startswith("Exception from")] or lines
    return f"{type(error).__name__}: {informative[0]}" if informative else type(error).__name__


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write a cell's result, whole or not at all.

    Args:
        folder: Folder of the cell.
        result: Plain data.
    """
    with staged_file(folder / RESULT_NAME) as path:
        path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read a cell's result.

    Args:
        folder: Folder of the cell.

    Returns:
        The result, or ``None`` if the cell has not finished.

    Raises:
        ValueError: If the file is broken.
    """
    path = Path(folder) / RESULT_NAME
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is broken ({error}). Delete it, and the cell is run again."
        raise ValueError(msg) from error
