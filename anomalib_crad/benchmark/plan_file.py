# SPDX-License-Identifier: Apache-2.0

"""Read a plan from its YAML file and check it.

A benchmark runs for hours, so a wrong value is refused before the first cell runs; the error names its place in the
file and what it may be. Models and datamodules are not looked up: that needs anomalib and torch, and a wrong name costs
a worker seconds.

Why not OmegaConf's structured configs: they convert a wrong type where they can (``"15"`` to 15.0, ``"yes"`` to true,
1 to ``"1"``), which hides mistakes and changes the identities of cells, and they know no ranges.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import yaml

from anomalib_crad.benchmark.cells import file_name
from anomalib_crad.benchmark.plan import DatasetPlan, ModelPlan, Plan
from anomalib_crad.files import configuration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Args:
        path: YAML file with the attributes of :class:`Plan` as keys.

    Returns:
        The plan.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is missing or unknown, or a value is not allowed; the message names it.
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
        plan: Plan = _read_section(Plan, "a plan", content)
        _check_plan(plan)
    except ValueError as error:
        msg = f"'{path}': {error}"
        raise ValueError(msg) from error
    return plan


def _read_section(kind: Any, where: str, content: object) -> Any:  # noqa: ANN401 - a dataclass and its instance
    """Build a dataclass of the plan from a mapping, or refuse unknown and missing keys."""
    values = _mapping(where, content)
    known = [entry.name for entry in fields(kind)]
    required = [entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING]
    unknown, missing = [key for key in values if key not in known], [key for key in required if key not in values]
    if unknown:
        msg = f"{where}: unknown {', '.join(map(str, unknown))}; known are {', '.join(known)}."
        raise ValueError(msg)
    if missing:
        msg = f"{where}: {', '.join(missing)} must be given."
        raise ValueError(msg)
    annotations = get_type_hints(kind, include_extras=True)
    prefix = "" if kind is Plan else f"{where}: "
    return kind(**{name: _read_value(annotations[name], prefix + name, value) for name, value in values.items()})


def _read_value(annotation: Any, where: str, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Check a value and convert it to its annotated type; ``where`` is its place in the file."""
    if get_origin(annotation) in {Union, UnionType}:
        options = [option for option in get_args(annotation) if option is not type(None)]
        if value is None:
            return None  # all unions of a plan include it
        mappings = [option for option in options if get_origin(option) is dict]
        return _read_value(mappings[0] if mappings and isinstance(value, dict) else options[0], where, value)
    if is_dataclass(annotation):
        return _read_section(annotation, where, value)
    if get_origin(annotation) is dict:
        _, entry = get_args(annotation)
        return {str(key): _read_value(entry, f"{where}: {key}", part) for key, part in _mapping(where, value).items()}
    kind, rule = get_args(annotation)
    if not rule.allows(value):
        _refuse(where, rule.needed, value)
    return tuple(value) if get_origin(kind) is tuple else value


def _mapping(where: str, content: object) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        msg = f"{where} must be a mapping of names to values, got {type(content).__name__}."
        raise ValueError(msg)  # noqa: TRY004 - a wrong file, not a wrong call
    return content


def _check_plan(plan: Plan) -> None:
    """Check what depends on several values, or on a value's parts."""
    for kind, sections in (("datasets", plan.datasets), ("models", plan.models)):
        _check_folders(kind, sections)
        for name, entry in sections.items():
            _check_arguments(f"{kind}: {name}", entry)
    for name, model in plan.models.items():
        if isinstance(model.max_epochs, dict):
            _check_epochs(f"models: {name}", model.max_epochs, plan.datasets)
    if plan.categories_of is None:
        return
    if plan.categories_of not in plan.datasets:
        _refuse("categories_of", f"one of the datasets ({', '.join(plan.datasets)})", plan.categories_of)
    categories = plan.datasets[plan.categories_of].init_args.get("category")
    if not isinstance(categories, list) or len(categories) < 2:
        needed = "a list of at least two categories, of which one, two and so on are used (categories_of)"
        _refuse(f"datasets: {plan.categories_of}: init_args: category", needed, categories)


def _check_folders(kind: str, names: Iterable[str]) -> None:
    """Refuse names that would share a folder, also on a file system that ignores case."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(file_name(name).casefold(), name)
        if other != name:
            msg = f"{kind}: the folders of '{other}' and '{name}' would have one name; rename one of the two."
            raise ValueError(msg)
    if not known:
        msg = f"{kind} is empty; name at least one."
        raise ValueError(msg)


def _check_arguments(where: str, entry: DatasetPlan | ModelPlan) -> None:
    try:
        json.dumps(entry.init_args, sort_keys=True)
    except TypeError as error:
        msg = f"{where}: init_args must hold texts, numbers, lists and mappings only ({error}); set others in quotes."
        raise ValueError(msg) from error


def _check_epochs(where: str, epochs: Mapping[str, int], datasets: Mapping[str, DatasetPlan]) -> None:
    unknown, missing = sorted(set(epochs) - set(datasets)), sorted(set(datasets) - set(epochs))
    if unknown:
        msg = f"{where}: max_epochs names {', '.join(unknown)}; datasets are {', '.join(datasets)}."
        raise ValueError(msg)
    if missing:
        names = ", ".join(datasets)
        msg = f"{where}: max_epochs must name every dataset ({names}), {', '.join(missing)} is missing."
        raise ValueError(msg)


def _refuse(where: str, needed: str, value: object) -> None:
    msg = f"{where} must be {needed}, got {value!r}."
    raise ValueError(msg)
