# SPDX-License-Identifier: Apache-2.0

"""Metrics of a user's own: measured, shown and written beside the others, and refused where they are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.cli.cli import AnomalibCLI
from anomalib.models import AnomalibModule
from rich.console import Console

from anomalib_crad.metrics import (
    DEFAULT_METRICS,
    CategoryEvaluator,
    CategoryMetric,
    ImageAP,
    ImageAUROC,
    MeanAD,
    RankedCategory,
    UndefinedMetricError,
)
from anomalib_crad.metrics.evaluation import Evaluation, evaluate_category
from anomalib_crad.metrics.results import save_results
from anomalib_crad.recording import ImageRecord

MASK = np.array([[False, True]])
IMAGES = [
    ImageRecord("0.png", anomalous=False, score=1.0, anomaly_map=np.array([[1, 2]], np.float32), mask=~MASK & MASK),
    ImageRecord("1.png", anomalous=False, score=3.0, anomaly_map=np.array([[1, 6]], np.float32), mask=~MASK & MASK),
    ImageRecord("2.png", anomalous=True, score=2.0, anomaly_map=np.array([[4, 7]], np.float32), mask=MASK),
]


class CaughtAtHalf(CategoryMetric):
    """Share of anomalous images that are caught while at most a share of the normal ones is rejected."""

    name = "image_Caught"

    def __init__(self, rejected: float = 0.5) -> None:
        self.rejected = rejected

    def compute(self, category: RankedCategory) -> float:
        ranking = category.images
        caught = ranking.found[ranking.false_alarms <= self.rejected * ranking.normal]
        return float(caught.max(initial=0)) / ranking.anomalous


class Broken(CategoryMetric):
    """A metric that does not exist for anything."""

    name = "image_Broken"

    def __init__(self, value: float | None = None) -> None:
        self.value = value

    def compute(self, category: RankedCategory) -> float:
        if self.value is None:
            msg = "nothing is good enough for it"
            raise UndefinedMetricError(msg)
        return self.value


class Counted(ImageAUROC):
    """The default metric, counting how often it is computed."""

    calls = 0

    def compute(self, category: RankedCategory) -> float:
        type(self).calls += 1
        return super().compute(category)


def test_a_metric_of_ones_own_is_measured_beside_the_others() -> None:
    result = evaluate_category("nut", IMAGES, [*DEFAULT_METRICS, CaughtAtHalf()])
    assert result.values["image_Caught"] == 1
    seven = [value for name, value in result.values.items() if name not in {"image_Caught", "mAD"}]
    assert len(seven) == 7
    assert result.values["mAD"] == pytest.approx(sum(seven) / 7), "another metric does not change it"
    assert result.values["mAD"] == evaluate_category("nut", IMAGES).values["mAD"]


def test_arguments_of_a_metric_count() -> None:
    assert evaluate_category("nut", IMAGES, [CaughtAtHalf(rejected=0.0)]).values == {"image_Caught": 0}


def test_mad_alone_is_the_same_and_needs_no_other_metric_in_the_list() -> None:
    result = evaluate_category("nut", IMAGES, [MeanAD()])
    assert result.values == {"mAD": evaluate_category("nut", IMAGES).values["mAD"]}


def test_a_part_of_mad_is_computed_once() -> None:
    Counted.calls = 0
    evaluate_category("nut", IMAGES, [Counted(), *DEFAULT_METRICS])
    assert Counted.calls == 1


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (Broken(), "nothing is good enough for it"),
        (Broken(float("nan")), "its value is nan"),
        (Broken(float("-inf")), "its value is -inf"),
    ],
)
def test_a_metric_says_itself_why_it_does_not_exist(metric: CategoryMetric, reason: str) -> None:
    result = evaluate_category("nut", IMAGES, [metric, ImageAP()])
    assert result.missing == {"image_Broken": reason}
    assert list(result.values) == ["image_AP"]


def test_it_gets_the_reason_of_a_ranking_that_does_not_exist() -> None:
    assert evaluate_category("nut", IMAGES[:2], [CaughtAtHalf()]).missing == {"image_Caught": "every image is normal"}


def test_table_files_and_plain_data_show_it_in_the_order_of_the_list(tmp_path: Path) -> None:
    evaluation = Evaluation([CaughtAtHalf(), ImageAUROC(), Broken()])
    evaluation.add("nut", IMAGES)
    report = evaluation.report()
    assert report.metrics == ("image_Caught", "image_AUROC")
    assert report.mean["image_Caught"] == report.per_category["image_Caught/nut"] == 1
    assert report.omissions == ["image_Broken does not exist for nut: nothing is good enough for it."]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(report.to_table())
    assert "Caught" in capture.get()
    save_results(tmp_path, report, {})
    lines = (tmp_path / "category_metrics.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["category,image_Caught,image_AUROC", "nut,1.0,0.5"]
    results = json.loads((tmp_path / "category_metrics.json").read_text(encoding="utf-8"))
    assert results["metrics"]["mean"]["image_Caught"] == 1


def test_without_a_list_the_eight_are_measured() -> None:
    assert CategoryEvaluator().metrics == DEFAULT_METRICS
    assert [metric.name for metric in DEFAULT_METRICS] == [
        *("image_AUROC", "image_AP", "image_F1Max"),
        *("pixel_AUROC", "pixel_AP", "pixel_F1Max", "pixel_AUPRO"),
        "mAD",
    ]


class NoName(CaughtAtHalf):
    """A metric that nobody could tell from others."""

    name = ""


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ([CaughtAtHalf(), CaughtAtHalf(0.1)], ValueError, "the name 'image_Caught' of CaughtAtHalf exists already"),
        ([Counted()], ValueError, "the name 'image_AUROC' of Counted exists already"),
        ([NoName()], ValueError, "NoName needs a class attribute name"),
        ([ImageAP(), "image_AUROC"], TypeError, "must hold instances of CategoryMetric, got 'image_AUROC'"),
        ([ImageAP], TypeError, "got <class .*ImageAP'>. Add parentheses"),
        (ImageAP(), TypeError, "metrics must be a list of CategoryMetric instances, got <.*ImageAP"),
        ([], ValueError, "metrics is empty"),
    ],
)
def test_what_is_no_metric_and_names_that_exist_are_errors(metrics: Any, error: type[Exception], message: str) -> None:  # noqa: ANN401
    with pytest.raises(error, match=message):
        CategoryEvaluator(metrics=metrics)


@pytest.mark.parametrize("name", ["image_F1Score", "category"])
def test_names_that_mean_something_else_are_an_error(name: str) -> None:
    metric = CaughtAtHalf()
    metric.name = name
    with pytest.raises(ValueError, match=f"the name '{name}' of CaughtAtHalf exists already"):
        CategoryEvaluator(metrics=[metric])


YAML = """
class_path: anomalib_crad.metrics.CategoryEvaluator
init_args:
  metrics:
    - class_path: anomalib_crad.metrics.ImageAUROC
    - class_path: {caught}
      init_args:
        rejected: 0.25
"""


def check_evaluator(model: AnomalibModule) -> None:
    evaluator = model.evaluator
    assert isinstance(evaluator, CategoryEvaluator)
    auroc, caught = evaluator.metrics
    assert isinstance(auroc, ImageAUROC)
    assert type(caught).__name__ == "CaughtAtHalf"
    assert vars(caught) == {"rejected": 0.25}


@pytest.fixture
def evaluator_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """YAML of an evaluator whose metric is defined in a module of the user's own."""
    source = (
        "from anomalib_crad.metrics import CategoryMetric\n\n\n"
        "class CaughtAtHalf(CategoryMetric):\n"
        '    name = "image_Caught"\n\n'
        "    def __init__(self, rejected: float = 0.5) -> None:\n"
        "        self.rejected = rejected\n\n"
        "    def compute(self, category):\n"
        "        return float(category.images.found[0])\n"
    )
    (tmp_path / "users_metrics.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return YAML.format(caught="users_metrics.CaughtAtHalf")


def test_yaml_takes_a_list_of_metrics(tmp_path: Path, evaluator_yaml: str) -> None:
    config = tmp_path / "model.yaml"
    indented = evaluator_yaml.replace("\n", "\n      ")
    config.write_text(
        "model:\n  class_path: anomalib.models.Padim\n  init_args:\n    pre_trained: false\n"
        f"    evaluator:{indented}\n",
        encoding="utf-8",
    )
    check_evaluator(AnomalibModule.from_config(config))


def test_the_command_line_takes_a_list_of_metrics(tmp_path: Path, evaluator_yaml: str, tiny_root: Path) -> None:
    config = tmp_path / "evaluator.yaml"
    config.write_text(evaluator_yaml, encoding="utf-8")
    words = ["train", "--model", "Padim", "--model.pre_trained=false", f"--model.evaluator={config}"]
    cli = AnomalibCLI([*words, "--data", "MVTecAD", "--data.category=blue", f"--data.root={tiny_root}"], run=False)
    check_evaluator(cli.model)
