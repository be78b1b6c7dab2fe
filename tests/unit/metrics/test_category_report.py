# SPDX-License-Identifier: Apache-2.0

"""Means, names, table and file of a report, and the pooled metrics beside them."""

import csv
from pathlib import Path

import pytest
from rich.console import Console

from anomalib_crad.metrics.category_report import CategoryReport, CategoryResult
from anomalib_crad.metrics.default_metrics import METRIC_NAMES

REPORT = CategoryReport((
    CategoryResult("bolt", 2, 2, {"image_AUROC": 1 / 3, "pixel_AUROC": 0.9}),
    CategoryResult("nut", 2, 2, {"image_AUROC": 1.0}, {"pixel_AUROC": "no image has a mask"}),
    CategoryResult("pin", 4, 0, {}, {"image_AUROC": "every image is normal", "pixel_AUROC": "no image has a mask"}),
))

WITH_POOLED = CategoryReport(
    REPORT.categories[:2],
    CategoryResult("pooled", 4, 4, {"image_AUROC": 0.75}, {"image_F1Max": "reason"}),
)


def render(report: CategoryReport) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report.to_table())
    return capture.get()


def test_means_are_over_the_categories_in_which_a_metric_exists() -> None:
    assert REPORT.mean == {"image_AUROC": pytest.approx(2 / 3), "pixel_AUROC": 0.9}


def test_loggers_get_one_name_a_category() -> None:
    assert REPORT.per_category == {"image_AUROC/bolt": 1 / 3, "image_AUROC/nut": 1.0, "pixel_AUROC/bolt": 0.9}


def test_what_does_not_exist_is_said_with_its_reason() -> None:
    assert REPORT.omissions == [
        "image_AUROC does not exist for pin: every image is normal.",
        "pixel_AUROC does not exist for nut, pin: no image has a mask.",
    ]


def test_a_metric_that_exists_nowhere_has_no_column(tmp_path: Path) -> None:
    report = CategoryReport((CategoryResult("mono", 2, 2, {"image_AUROC": 0.5}, {"pixel_AUROC": "no masks"}),))
    report.to_csv(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").split() == [
        "category,image_AUROC",
        "mono,0.5",
        "mean,0.5",
    ]
    assert "pixel_AUROC does not exist for mono" in " ".join(render(report).split())


def test_the_table_has_a_row_a_category_and_the_mean_last() -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in render(REPORT).splitlines() if "│" in line]
    assert rows == [
        ["bolt", "0.3333", "0.9000"],
        ["nut", "1.0000", "-"],
        ["pin", "-", "-"],
        ["mean", "0.6667", "0.9000"],
    ]


def test_pooled_metrics_come_after_the_mean_and_are_no_part_of_it(tmp_path: Path) -> None:
    assert WITH_POOLED.mean == REPORT.mean
    assert WITH_POOLED.pooled_values == {"pooled/image_AUROC": 0.75}
    assert WITH_POOLED.per_category == REPORT.per_category
    assert [line for line in render(WITH_POOLED).splitlines() if "│" in line][-1].split() == [
        "│pooled",
        "│0.7500│",
        "-│",
    ]
    WITH_POOLED.to_csv(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[-1] == "pooled,0.75,"


def test_metrics_that_do_not_exist_for_one_reason_share_a_line() -> None:
    reasons = {"pixel_AP": "no image has a mask", "pixel_AUPRO": "no image has a mask", "mAD": "it needs all"}
    report = CategoryReport((CategoryResult("nut", 1, 1, {"image_AP": 1.0}, reasons),))
    assert report.omissions == [
        "pixel_AP, pixel_AUPRO do not exist for nut: no image has a mask.",
        "mAD does not exist for nut: it needs all.",
    ]


def test_all_metrics_fit_into_a_terminal_of_80_columns() -> None:
    report = CategoryReport((CategoryResult("juice_bottle", 1, 1, dict.fromkeys(METRIC_NAMES, 0.98765)),))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(report.to_table())
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capture.get().splitlines() if "│" in line]
    assert rows == [["juice_bottle", *["0.9877"] * 8], ["mean", *["0.9877"] * 8]]


def test_plain_data_holds_everything() -> None:
    assert WITH_POOLED.to_dict() == {
        "categories": {
            "bolt": {
                "normal": 2,
                "anomalous": 2,
                "values": {"image_AUROC": 1 / 3, "pixel_AUROC": 0.9},
                "missing": {},
            },
            "nut": {
                "normal": 2,
                "anomalous": 2,
                "values": {"image_AUROC": 1.0},
                "missing": {"pixel_AUROC": "no image has a mask"},
            },
        },
        "mean": {"image_AUROC": pytest.approx(2 / 3), "pixel_AUROC": 0.9},
        "pooled": {"normal": 4, "anomalous": 4, "values": {"image_AUROC": 0.75}, "missing": {"image_F1Max": "reason"}},
    }
    assert REPORT.to_dict()["pooled"] is None


def test_the_file_has_full_precision_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.csv"
    REPORT.to_csv(path)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["category"] for row in rows] == ["bolt", "nut", "pin", "mean"]
    assert rows[0]["image_AUROC"] == repr(1 / 3)
    assert rows[1]["pixel_AUROC"] == ""


def test_an_empty_report_can_be_shown_and_saved(tmp_path: Path) -> None:
    CategoryReport(()).to_csv(tmp_path / "metrics.csv")
    assert CategoryReport(()).mean == {}
    assert "mean" in render(CategoryReport(()))
