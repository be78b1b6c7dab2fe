# SPDX-License-Identifier: Apache-2.0

"""What the values of a plan may be.

A benchmark runs for hours, so a value that cannot be is refused before the first of them, with its place in the file.
Names of models and datamodules are not looked up here: that needs anomalib and torch, and a wrong one costs a worker
seconds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anomalib_crad.benchmark.cells import file_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomalib_crad.benchmark.plan import CostPlan, DatasetPlan, ModelPlan, Plan


def check_plan(plan: Plan) -> None:
    """Refuse a plan with a value of the wrong type or range.

    Args:
        plan: What was read.

    Raises:
        ValueError: If a value cannot be; the message names the key and what it may be.
    """
    _check_seeds("seeds", plan.seeds)
    size = plan.image_size
    if not isinstance(size, tuple) or len(size) != 2 or not all(_is_whole(side, 1) for side in size):
        _refuse("image_size", "height and width in pixels, such as [224, 224]", size)
    _check_text("accelerator", plan.accelerator)
    _check_whole("score_window", plan.score_window)
    _check_minutes("minutes_per_cell", plan.minutes_per_cell)
    for kind, names in (("datasets", plan.datasets), ("models", plan.models)):
        _check_folders(kind, names)
    for name, dataset in plan.datasets.items():
        _check_class(f"datasets: {name}", dataset)
    for name, model in plan.models.items():
        _check_model(f"models: {name}", model, plan)
    if plan.cost is not None:
        _check_cost(plan.cost)
    if plan.categories_of is not None:
        _check_categories(plan, plan.categories_of)


def _check_model(where: str, model: ModelPlan, plan: Plan) -> None:
    _check_class(where, model)
    _check_text(f"{where}: image_score", model.image_score)
    if model.seeds is not None:
        _check_seeds(f"{where}: seeds", model.seeds)
    _check_minutes(f"{where}: minutes_per_cell", model.minutes_per_cell)
    if model.train_batch_size is not None:
        _check_whole(f"{where}: train_batch_size", model.train_batch_size)
    if not isinstance(model.cost_grows, bool):
        _refuse(f"{where}: cost_grows", "true or false", model.cost_grows)
    epochs = model.max_epochs
    if isinstance(epochs, dict):
        datasets = ", ".join(plan.datasets)
        unknown, missing = sorted(map(str, set(epochs) - set(plan.datasets))), sorted(set(plan.datasets) - set(epochs))
        if unknown:
            msg = f"{where}: max_epochs names {', '.join(unknown)}; datasets are {datasets}."
            raise ValueError(msg)
        if missing:
            msg = f"{where}: max_epochs must name every dataset ({datasets}), {', '.join(missing)} is missing."
            raise ValueError(msg)
    for dataset, number in (epochs if isinstance(epochs, dict) else {"": epochs}).items():
        if epochs is not None:
            _check_whole(f"{where}: max_epochs{': ' + dataset if dataset else ''}", number)


def _check_cost(cost: CostPlan) -> None:
    if cost.threads is not None:
        _check_whole("cost: threads", cost.threads)
    _check_whole("cost: warm_up", cost.warm_up, least=0)
    for name in ("runs", "batch_runs", "batch_size"):
        _check_whole(f"cost: {name}", getattr(cost, name))


def _check_categories(plan: Plan, dataset: str) -> None:
    if dataset not in plan.datasets:
        _refuse("categories_of", f"one of the datasets ({', '.join(plan.datasets)})", dataset)
    categories = plan.datasets[dataset].init_args.get("category")
    if not isinstance(categories, list) or len(categories) < 2:
        needed = "a list of at least two categories, of which one, two and so on are used (categories_of)"
        _refuse(f"datasets: {dataset}: init_args: category", needed, categories)


def _check_class(where: str, entry: DatasetPlan | ModelPlan) -> None:
    _check_text(f"{where}: class_path", entry.class_path)
    if not isinstance(entry.init_args, dict):
        _refuse(f"{where}: init_args", "a mapping of names to values", entry.init_args)
    try:
        json.dumps(entry.init_args, sort_keys=True)
    except TypeError as error:
        msg = f"{where}: init_args must hold texts, numbers, lists and mappings only ({error}); set others in quotes."
        raise ValueError(msg) from error


def _check_folders(kind: str, names: Iterable[str]) -> None:
    """Refuse names that would share a folder, also where upper and lower case are one."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(file_name(name).casefold(), name)
        if other != name:
            msg = f"{kind}: the folders of '{other}' and '{name}' would have one name; rename one of the two."
            raise ValueError(msg)


def _check_seeds(where: str, seeds: Sequence[int]) -> None:
    listed = isinstance(seeds, list | tuple)
    if not listed or not seeds or not all(_is_whole(seed, 0) for seed in seeds) or len(set(seeds)) < len(seeds):
        _refuse(where, "a list of different whole numbers from 0, at least one", seeds)


def _check_minutes(where: str, minutes: float | None) -> None:
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0):
        _refuse(where, "a number above 0, or null for no limit", minutes)


def _check_text(where: str, text: object) -> None:
    if not isinstance(text, str) or not text:
        _refuse(where, "a text", text)


def _check_whole(where: str, number: object, least: int = 1) -> None:
    if not _is_whole(number, least):
        _refuse(where, f"a whole number from {least}", number)


def _is_whole(number: object, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


def _refuse(where: str, needed: str, value: Any) -> None:  # noqa: ANN401  # whatever a file holds
    shown = list(value) if isinstance(value, tuple) else value
    msg = f"{where} must be {needed}, got {shown!r}."
    raise ValueError(msg)
