# SPDX-License-Identifier: Apache-2.0

"""A plan is read whole and checked before anything runs."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.models
import pytest
import yaml

from anomalib_crad.benchmark.plan import CostPlan
from anomalib_crad.benchmark.plan_file import read_plan

CONFIGS = Path(__file__).parents[3] / "configs"

SMALLEST: dict[str, Any] = {
    "datasets": {"products": {"class_path": "MVTec"}},
    "models": {"Crad": {"class_path": "Crad", "image_score": "largest mean"}},
}


def of_model(**changes: object) -> dict[str, Any]:
    return {"models": {"Crad": {**SMALLEST["models"]["Crad"], **changes}}}


def read(tmp_path: Path, content: object) -> Any:  # noqa: ANN401
    path = tmp_path / "plan.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return read_plan(path)


def test_the_smallest_plan_has_the_documented_defaults(tmp_path: Path) -> None:
    plan = read(tmp_path, SMALLEST)
    assert plan.seeds == (0,)
    assert plan.image_size == (224, 224)
    assert plan.cost == CostPlan(threads=None, warm_up=5, runs=30, batch_runs=5, batch_size=16)
    assert plan.models["Crad"].epochs_on("products") is None
    assert plan.seeds_of("Crad") == (0,)


def test_epochs_and_seeds_may_be_a_models_own(tmp_path: Path) -> None:
    model = {**SMALLEST["models"]["Crad"], "max_epochs": {"products": 7}, "seeds": [5]}
    plan = read(tmp_path, {**SMALLEST, "models": {"Crad": model}, "seeds": [0, 1], "cost": None})
    assert plan.models["Crad"].epochs_on("products") == 7
    assert plan.seeds_of("Crad") == (5,)
    assert plan.cost is None


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("benchmark*.yaml")), ids=lambda path: path.name)
def test_configurations_name_models_and_datamodules_that_exist(path: Path) -> None:
    plan = read_plan(path)
    for model in plan.models.values():
        assert hasattr(anomalib.models, model.class_path)
    for dataset in plan.datasets.values():
        assert hasattr(anomalib.data, dataset.class_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": {}}, "datasets is empty"),
        ({"models": {"Crad": {"class_path": "Crad"}}}, "models: Crad: image_score must be given"),
        (
            {"models": {"Crad": {**SMALLEST["models"]["Crad"], "epoch": 3}}},
            "models: Crad: unknown epoch; known are class_path",
        ),
        ({"models": {"Crad": "Crad"}}, "models: Crad must be a mapping of names to values, got str"),
        ({"seed": [0]}, "a plan: unknown seed; known are datasets"),
        *(
            ({"seeds": seeds}, f"seeds must be a list of different whole numbers from 0, at least one, got {shown}")
            for seeds, shown in (
                ([], r"\[\]"),
                (0, "0"),
                ([True], r"\[True\]"),
                ([0, 0], r"\[0, 0\]"),
                ([-1], r"\[-1\]"),
            )
        ),
        (of_model(seeds=[-1]), r"models: Crad: seeds must be a list of different whole numbers .*, got \[-1\]"),
        (of_model(max_epochs=True), "models: Crad: max_epochs must be a whole number from 1, got True"),
        ({"cost": 3}, "cost must be a mapping of names to values, got int"),
        ({"image_size": [224]}, r"image_size must be height and width in pixels, such as \[224, 224\], got \[224\]"),
        ({"image_size": 224}, r"image_size must be height and width in pixels, .*, got 224"),
        ({"accelerator": 1}, "accelerator must be a text, got 1"),
        ({"score_window": 0}, "score_window must be a whole number from 1, got 0"),
        ({"score_window": "a"}, "score_window must be a whole number from 1, got 'a'"),
        *(
            ({"minutes_per_cell": minutes}, f"minutes_per_cell must be a number above 0, .*, got {minutes!r}")
            for minutes in (-1, 0, "15")
        ),
        (of_model(minutes_per_cell=0), "models: Crad: minutes_per_cell must be a number above 0"),
        *(
            (of_model(max_epochs=epochs), f"models: Crad: max_epochs must be a whole number from 1, got {epochs!r}")
            for epochs in (0, "six", -3)
        ),
        (
            of_model(max_epochs={"products": 0}),
            "models: Crad: max_epochs: products must be a whole number from 1, got 0",
        ),
        (
            {"datasets": {"nuts": {"class_path": "MVTec"}, "caps": {"class_path": "MVTec"}}}
            | of_model(max_epochs={"nuts": 1}),
            r"models: Crad: max_epochs must name every dataset \(caps, nuts\), caps is missing",
        ),
        (of_model(train_batch_size=0), "models: Crad: train_batch_size must be a whole number from 1, got 0"),
        (of_model(cost_grows="yes"), "models: Crad: cost_grows must be true or false, got 'yes'"),
        (of_model(class_path=None), "models: Crad: class_path must be a text, got None"),
        (of_model(init_args=None), "models: Crad: init_args must be a mapping of names to values, got None"),
        (of_model(init_args=[1]), r"models: Crad: init_args must be a mapping of names to values, got \[1\]"),
        (of_model(init_args={"day": date(2026, 1, 1)}), "models: Crad: init_args must hold texts.*date.*in quotes"),
        ({"categories_of": 3}, "categories_of must be the name of one of the datasets, got 3"),
        ({"categories_of": "nuts"}, r"categories_of must be one of the datasets \(products\), got 'nuts'"),
        (
            {"categories_of": "products"},
            "datasets: products: init_args: category must be a list of at least two .* None",
        ),
        (
            {
                "categories_of": "products",
                "datasets": {"products": {"class_path": "MVTec", "init_args": {"category": ["a"]}}},
            },
            r"datasets: products: init_args: category must be a list of at least two .* \['a'\]",
        ),
        (
            {"models": dict.fromkeys(("Crad-S", "crad S"), SMALLEST["models"]["Crad"])},
            "models: the folders of 'Crad-S' and 'crad S' would have one name",
        ),
        *(
            ({"cost": {name: value}}, f"cost: {name} must be a whole number from {least}, got {value}")
            for name, value, least in (
                ("threads", 0, 1),
                ("warm_up", -1, 0),
                ("runs", 0, 1),
                ("batch_runs", 0, 1),
                ("batch_size", 0, 1),
            )
        ),
        ({"cost": {"run": 3}}, "cost: unknown run; known are threads"),
        (
            {"models": {"Crad": {**SMALLEST["models"]["Crad"], "max_epochs": {"nuts": 3}}}},
            "models: Crad: max_epochs names nuts; datasets are products",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"plan.yaml': {message}"):
        read(tmp_path, {**SMALLEST, **changes})


def test_a_file_that_is_not_there_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no configuration '.*nothing\.yaml'") as raised:
        read_plan(tmp_path / "nothing.yaml")
    assert Path(str(raised.value).partition("One to start from: ")[2]).is_file()
    with pytest.raises(ValueError, match="is not valid YAML"):
        read(tmp_path, "datasets: [")
