# SPDX-License-Identifier: Apache-2.0

"""What a benchmark compares, read from a YAML file and checked before anything runs.

A plan is plain data: every value of it goes into the identity of the cells that it is cut into, so that a changed
setting is a new cell and an unchanged one is never run twice.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from anomalib_crad.benchmark.plan_file import check_plan
from anomalib_crad.configurations import configuration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_Section = TypeVar("_Section", "DatasetPlan", "ModelPlan", "CostPlan")


@dataclass(frozen=True)
class DatasetPlan:
    """One datamodule, the same for every model.

    Attributes:
        class_path: Name of one of anomalib's or our datamodules.
        init_args: Its arguments. Defaults to none.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelPlan:
    """One model and how long it is trained.

    Attributes:
        class_path: Name of one of anomalib's or our models.
        image_score: In words, how the model pools its map into an image score; stands beside its numbers.
        init_args: Its arguments. Defaults to none.
        max_epochs: Epochs to train, by the name of every dataset where they differ. Defaults to ``None``: what the
            model sets by itself, as ours and memory banks do; any other is refused, as Lightning would train 1000.
        train_batch_size: Images in a training batch, where it differs from the dataset's. Defaults to ``None``.
        cost_grows: Whether its network grows with the training images, as a memory bank does; then its cost is
            measured for each number of categories. Defaults to ``False``.
        seeds: Seeds, where they differ from the plan's. Defaults to ``None``.
        minutes_per_cell: Limit, where it differs from the plan's. Defaults to ``None``.
    """

    class_path: str
    image_score: str
    init_args: dict[str, Any] = field(default_factory=dict)
    max_epochs: int | dict[str, int] | None = None
    train_batch_size: int | None = None
    cost_grows: bool = False
    seeds: Sequence[int] | None = None
    minutes_per_cell: float | None = None

    def epochs_on(self, dataset: str) -> int | None:
        """Return the epochs to train on a dataset, or ``None`` for the model's own.

        Args:
            dataset: Name of the dataset in the plan.
        """
        return self.max_epochs.get(dataset) if isinstance(self.max_epochs, dict) else self.max_epochs


@dataclass(frozen=True)
class CostPlan:
    """How the cost of a trained model is measured.

    Attributes:
        threads: Threads for PyTorch and OpenVINO. Defaults to ``None``: one for each core.
        warm_up: Runs before the clock starts. Defaults to ``5``.
        runs: Timed runs at batch 1. Defaults to ``30``.
        batch_runs: Timed runs at ``batch_size``. Defaults to ``5``.
        batch_size: Images in a batch for throughput. Defaults to ``16``.
    """

    threads: int | None = None
    warm_up: int = 5
    runs: int = 30
    batch_runs: int = 5
    batch_size: int = 16


@dataclass(frozen=True)
class Plan:
    """Everything that a benchmark compares.

    Attributes:
        datasets: Datamodules by the name that tables show.
        models: Models by the name that tables show.
        seeds: Seeds; each model is trained and tested once with each. Cost is measured with the first.
        image_size: Height and width that every model sees.
        accelerator: Lightning's name of the device.
        score_window: Side, in pixels, of the window whose largest mean is the image score that is the same for all
            models.
        minutes_per_cell: A cell that takes longer is stopped and reported as such; ``None`` for no limit.
        categories_of: Dataset on which cost is measured for one category, two, and so on; ``None`` for not at all.
        cost: How cost is measured; ``None`` for not at all.
    """

    datasets: dict[str, DatasetPlan]
    models: dict[str, ModelPlan]
    seeds: tuple[int, ...] = (0,)
    image_size: tuple[int, int] = (224, 224)
    accelerator: str = "auto"
    score_window: int = 32
    minutes_per_cell: float | None = None
    categories_of: str | None = None
    cost: CostPlan | None = field(default_factory=CostPlan)

    def seeds_of(self, model: str) -> tuple[int, ...]:
        """Return the seeds of a model.

        Args:
            model: Name of the model.
        """
        seeds = self.models[model].seeds
        return self.seeds if seeds is None else tuple(seeds)


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Args:
        path: YAML file with the attributes of :class:`Plan` as keys.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is missing or unknown, or a value cannot be; the message names it.
    """
    if not path.is_file():
        msg = f"There is no configuration '{path}'. One to start from: {configuration('benchmark.yaml')}"
        raise FileNotFoundError(msg)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        msg = f"'{path}' is not valid YAML: {error}"
        raise ValueError(msg) from error
    try:
        return _plan(content)
    except (ValueError, TypeError) as error:
        msg = f"'{path}': {error}"
        raise ValueError(msg) from error


def _plan(content: object) -> Plan:
    values = _mapping("a plan", content)
    _check_names("a plan", values, Plan)
    plan = Plan(**{
        **values,
        "datasets": _sections("datasets", values["datasets"], DatasetPlan),
        "models": _sections("models", values["models"], ModelPlan),
        # What is no list is left for the check, which names it.
        **{name: tuple(values[name]) for name in ("seeds", "image_size") if isinstance(values.get(name), list)},
        **({"cost": _section("cost", values["cost"], CostPlan)} if values.get("cost") is not None else {}),
    })
    check_plan(plan)
    return plan


def _sections(name: str, content: object, kind: type[_Section]) -> dict[str, _Section]:
    sections = _mapping(name, content)
    if not sections:
        msg = f"{name} is empty; name at least one."
        raise ValueError(msg)
    return {str(key): _section(f"{name}: {key}", value, kind) for key, value in sections.items()}


def _section(name: str, content: object, kind: type[_Section]) -> _Section:
    values = _mapping(name, content)
    _check_names(name, values, kind)
    return kind(**values)


def _mapping(name: str, content: object) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        msg = f"{name} must be a mapping of names to values, got {type(content).__name__}."
        raise TypeError(msg)
    return content


def _check_names(name: str, values: Mapping[str, Any], kind: type) -> None:
    known = [entry.name for entry in fields(kind)]
    required = [entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING]
    unknown, missing = [key for key in values if key not in known], [key for key in required if key not in values]
    if unknown:
        msg = f"{name}: unknown {', '.join(map(str, unknown))}; known are {', '.join(known)}."
        raise ValueError(msg)
    if missing:
        msg = f"{name}: {', '.join(missing)} must be given."
        raise ValueError(msg)
