# SPDX-License-Identifier: Apache-2.0

"""Cells: their order, and names that change with every setting."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_up_results import plan

from anomalib_crad.benchmark.cells import Cell, cells_of, describe_error, read_result, write_result
from anomalib_crad.benchmark.plan import CostPlan, DatasetPlan, ModelPlan
from anomalib_crad.benchmark.plan_file import read_plan

if TYPE_CHECKING:
    from anomalib_crad.benchmark.plan import Plan

REPOSITORY = Path(__file__).parents[3]


def test_quality_comes_before_cost_and_every_cost_after_its_source() -> None:
    cells = cells_of(plan())
    kinds = [cell.kind for cell in cells]
    assert kinds == sorted(kinds, reverse=True)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    for cell in cells:
        if cell.kind == "cost":
            assert cell.source is not None
            assert names.index(cell.source) < names.index(cell.name)


def test_every_seed_is_trained_and_the_first_is_measured_in_both_runtimes() -> None:
    cells = cells_of(plan(categories_of=None))
    assert [(cell.model, cell.seed) for cell in cells if cell.kind == "quality"] == [
        ("Crad", 0),
        ("PatchCore", 0),
        ("Crad", 1),
        ("PatchCore", 1),
    ]
    assert [(cell.model, cell.seed, cell.runtime) for cell in cells if cell.kind == "cost"] == [
        ("Crad", 0, "PyTorch"),
        ("Crad", 0, "OpenVINO"),
        ("PatchCore", 0, "PyTorch"),
        ("PatchCore", 0, "OpenVINO"),
    ]


def test_models_that_grow_are_measured_for_fewer_categories_too() -> None:
    fewer = [(cell.model, cell.kind, cell.categories) for cell in cells_of(plan()) if cell.categories is not None]
    assert fewer == [("PatchCore", "quality", 1), ("PatchCore", "cost", 1), ("PatchCore", "cost", 1)]


def test_without_cost_there_is_quality_only() -> None:
    assert {cell.kind for cell in cells_of(plan(cost=None))} == {"quality"}


@pytest.mark.parametrize(
    "changed",
    [
        plan(image_size=(64, 64)),
        plan(accelerator="cpu"),
        plan(score_window=16),
        plan(datasets={"products": DatasetPlan("MVTec", {"category": ["cap"]})}),
        plan(models={**plan().models, "Crad": ModelPlan("Crad", "largest mean", {"num_blocks": 1}, {"products": 3})}),
        plan(models={**plan().models, "Crad": ModelPlan("Crad", "largest mean", max_epochs=4)}),
    ],
    ids=["size", "accelerator", "window", "data", "arguments", "epochs"],
)
def test_a_changed_setting_is_another_cell_and_what_builds_on_it_too(changed: Plan) -> None:
    def crads(of: Plan) -> dict[str, str]:
        return {cell.title: cell.name for cell in cells_of(of) if cell.model == "Crad"}

    assert not set(crads(plan()).values()) & set(crads(changed).values())


def test_what_only_measures_cost_leaves_quality_alone() -> None:
    changed = plan(cost=CostPlan(runs=7))
    same = {cell.name for cell in cells_of(plan())} & {cell.name for cell in cells_of(changed)}
    assert same == {cell.name for cell in cells_of(plan()) if cell.kind == "quality"}


def test_published_results_are_still_those_of_their_plan(tmp_path: Path) -> None:
    """A run that was published can be continued: its cells keep their names, and so their folders."""
    published = json.loads((REPOSITORY / "docs" / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    path = tmp_path / "plan.yaml"
    path.write_text(json.dumps(published["plan"]), encoding="utf-8")
    cells = cells_of(read_plan(path))
    assert [cell.name for cell in cells] == [cell["name"] for cell in published["cells"]]
    assert json.loads(json.dumps(asdict(read_plan(path)))) == published["plan"]
    assert [asdict(cell) for cell in cells] == [
        {name: value for name, value in cell.items() if name not in {"name", "result"}} for cell in published["cells"]
    ]


def test_text_and_back() -> None:
    for cell in cells_of(plan()):
        assert Cell.from_json(cell.to_json()) == cell
        assert Cell.from_json(cell.to_json()).name == cell.name


def test_names_are_file_names() -> None:
    cell = replace(cells_of(plan())[0], model="CRAD / small: 1")
    assert "/" not in cell.name
    assert ":" not in cell.name


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    with pytest.raises(ValueError, match="Out of range float"):
        write_result(tmp_path, {"value": float("nan")})
    assert read_result(tmp_path) is None
    write_result(tmp_path, {"value": 1.5})
    assert read_result(tmp_path) == {"value": 1.5}


def test_an_error_is_named_by_its_first_telling_line() -> None:
    error = RuntimeError("Exception from src/core.cpp:1:\nCheck 'shape' failed\nmore")
    assert describe_error(error) == "RuntimeError: Check 'shape' failed"
    assert describe_error(KeyError()) == "KeyError"
