# SPDX-License-Identifier: Apache-2.0

"""What a benchmark compares: each setting is declared once, with its type, its default and the values that it may have.

The names of settings are the keys of the configuration file, which ``plan_file.py`` reads. Settings are part of the
identity of each cell whose result they decide about: a changed setting makes a new cell, and what has not changed is
not run twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Rule(NamedTuple):
    """What a value of a plan may be.

    Attributes:
        needed: In words, for the error.
        allows: Whether a value read from YAML is allowed.
    """

    needed: str
    allows: Callable[[Any], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _are_seeds(value: object) -> bool:
    return isinstance(value, list) and all(_is_whole(seed, 0) for seed in value) and 0 < len(value) == len(set(value))


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_whole(side, 1) for side in value)


_Text = Annotated[str, Rule("a text", _is_text)]
_DatasetName = Annotated[str, Rule("the name of one of the datasets", _is_text)]
_Flag = Annotated[bool, Rule("true or false", lambda value: isinstance(value, bool))]
_Count = Annotated[int, Rule("a whole number from 1", lambda value: _is_whole(value, 1))]
_CountOrZero = Annotated[int, Rule("a whole number from 0", lambda value: _is_whole(value, 0))]
_Minutes = Annotated[float, Rule("a number above 0, or null for no limit", _is_positive)]
_Seeds = Annotated[tuple[int, ...], Rule("a list of different whole numbers from 0, at least one", _are_seeds)]
_Size = Annotated[tuple[int, int], Rule("height and width in pixels, such as [224, 224]", _is_size)]
_Arguments = Annotated[dict[str, Any], Rule("a mapping of names to values", lambda value: isinstance(value, dict))]


@dataclass(frozen=True)
class DatasetPlan:
    """One datamodule, the same for every model.

    Attributes:
        class_path: Name of one of anomalib's or our datamodules.
        init_args: Its arguments. Defaults to none.
    """

    class_path: _Text
    init_args: _Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class ModelPlan:
    """One model and how long it is trained.

    Attributes:
        class_path: Name of one of anomalib's or our models.
        image_score: In words, how the model pools its map into an image score; tables show it beside the numbers.
        init_args: Its arguments. Defaults to none.
        max_epochs: Epochs to train; a mapping of all datasets to epochs where they differ. Defaults to ``None``: what
            the model sets by itself, as our models and memory banks do. Any other model needs a number, because
            Lightning would train 1000 epochs.
        train_batch_size: Images in a training batch, if not the dataset's. Defaults to ``None``.
        cost_grows: Whether the network grows with the training images, as a memory bank does; then the benchmark
            measures its cost for each number of categories. Defaults to ``False``.
        seeds: Seeds, if not the plan's. Defaults to ``None``.
        minutes_per_cell: Limit, if not the plan's. Defaults to ``None``.
    """

    class_path: _Text
    image_score: _Text
    init_args: _Arguments = field(default_factory=dict)
    max_epochs: _Count | dict[str, _Count] | None = None
    train_batch_size: _Count | None = None
    cost_grows: _Flag = False
    seeds: _Seeds | None = None
    minutes_per_cell: _Minutes | None = None

    def epochs_on(self, dataset: str) -> int | None:
        """Return the epochs to train on a dataset, or ``None`` for the model's own.

        Args:
            dataset: Name of the dataset in the plan.
        """
        return self.max_epochs.get(dataset) if isinstance(self.max_epochs, dict) else self.max_epochs


@dataclass(frozen=True)
class CostPlan:
    """How the benchmark measures the cost of a trained model.

    Attributes:
        threads: Threads for PyTorch and OpenVINO. Defaults to ``None``: one for each core.
        warm_up: Runs before the clock starts. Defaults to ``5``.
        runs: Timed runs at batch 1. Defaults to ``30``.
        batch_runs: Timed runs at ``batch_size``. Defaults to ``5``.
        batch_size: Images in a batch for throughput. Defaults to ``16``.
    """

    threads: _Count | None = None
    warm_up: _CountOrZero = 5
    runs: _Count = 30
    batch_runs: _Count = 5
    batch_size: _Count = 16


@dataclass(frozen=True)
class Plan:
    """Everything that a benchmark compares.

    Attributes:
        datasets: Datamodules by the name that tables show.
        models: Models by the name that tables show.
        seeds: Seeds; each model is trained and tested once with each. Cost is measured with the first. Defaults to 0.
        image_size: Height and width, in pixels, of the images that every model sees. Defaults to 224 x 224.
        accelerator: Lightning's name of the device. Defaults to ``"auto"``.
        score_window: Side, in pixels, of the window whose largest mean is the image score that is the same for all
            models. Defaults to ``32``.
        minutes_per_cell: A cell that takes longer is stopped and reported as such. Defaults to ``None``: no limit.
        categories_of: Dataset on which cost is measured for one category, two, and so on. Defaults to ``None``: not at
            all.
        cost: How cost is measured; ``None`` for not at all. Defaults to the defaults of :class:`CostPlan`.
    """

    datasets: dict[str, DatasetPlan]
    models: dict[str, ModelPlan]
    seeds: _Seeds = (0,)
    image_size: _Size = (224, 224)
    accelerator: _Text = "auto"
    score_window: _Count = 32
    minutes_per_cell: _Minutes | None = None
    categories_of: _DatasetName | None = None
    cost: CostPlan | None = field(default_factory=CostPlan)

    def seeds_of(self, model: str) -> tuple[int, ...]:
        """Return the seeds of a model.

        Args:
            model: Name of the model.
        """
        seeds = self.models[model].seeds
        return self.seeds if seeds is None else seeds
