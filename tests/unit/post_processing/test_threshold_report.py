# SPDX-License-Identifier: Apache-2.0

"""What is counted of a test set, shown, and written."""

import csv
import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from anomalib_crad.post_processing.epoch_scores import CategoryScores
from anomalib_crad.post_processing.threshold_report import CSV_NAME, ThresholdReport, save_report, threshold_report
from anomalib_crad.post_processing.thresholds import LevelThresholds, Threshold, Thresholds

SCORES = {
    "tile": CategoryScores([11, 12, 13, 14], [False, False, True, True]),
    "cable": CategoryScores([1, 4, 2, 5], [False, False, True, True]),
    "good": CategoryScores([1, 9], [False, False]),
}


def thresholds(**own: float) -> Thresholds:
    categories = {name: LevelThresholds(Threshold(value, 1)) for name, value in own.items()}
    return Thresholds(LevelThresholds(Threshold(3, 2)), categories)


def report(given: Thresholds, sensitivity: float = 0.5) -> ThresholdReport:
    found = threshold_report(SCORES, given, sensitivity)
    assert found is not None
    return found


def test_categories_are_counted_under_their_own_threshold_and_once_more_pooled() -> None:
    rows = {row.category: row for row in report(thresholds(tile=12)).rows}
    assert list(rows) == ["cable", "good", "tile", "pooled"]
    tile = rows["tile"]
    assert (tile.threshold, tile.false_alarm_rate, tile.recall) == (12, 0, 1)
    assert (tile.normal, tile.anomalous, tile.false_alarms, tile.missed) == (2, 2, 0, 0)
    cable = rows["cable"]
    assert (cable.threshold, cable.false_alarm_rate, cable.recall) == (3, 0.5, 0.5)
    assert (cable.false_alarms, cable.missed) == (1, 1)
    pooled = rows["pooled"]
    assert (pooled.normal, pooled.anomalous, pooled.false_alarms, pooled.missed) == (6, 4, 4, 1)


def test_a_rate_of_no_image_does_not_exist() -> None:
    good = report(thresholds()).categories[1]
    assert good.category == "good"
    assert good.recall is None
    assert good.false_alarm_rate == pytest.approx(0.5)


def test_sensitivity_moves_the_threshold() -> None:
    """On the squashed scale 0.75 is one scale above the threshold, 0.25 one below."""
    assert report(thresholds(), 0.25).pooled.threshold == pytest.approx(5)
    assert report(thresholds(), 0.75).pooled.threshold == pytest.approx(1)


def test_a_score_that_is_nan_is_above_nothing() -> None:
    found = threshold_report({"cable": CategoryScores([float("nan")], [True])}, thresholds())
    assert found is not None
    assert found.pooled.missed == 1


def test_nothing_to_report() -> None:
    assert threshold_report({}, thresholds()) is None
    assert threshold_report(SCORES, Thresholds()) is None


def test_the_table_fits_a_terminal_and_shows_all() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(report(thresholds(tile=12)).to_table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Thresholds per category, on raw image scores" in text
    assert "…" not in text
    lines = [line.replace("│", " ").split() for line in text.splitlines()]
    assert any("tile" in line and "12" in line and "1.0000" in line for line in lines)
    assert any("good" in line and "-" in line for line in lines)


def test_the_file_holds_the_rows_at_full_precision(tmp_path: Path) -> None:
    save_report(tmp_path / "run", report(thresholds(tile=12 + 1 / 3)))
    with (tmp_path / "run" / CSV_NAME).open(encoding="utf-8") as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["cable", "good", "tile", "pooled"]
    assert rows["tile"]["threshold"] == repr(12 + 1 / 3)
    assert not rows["good"]["recall"]
    assert rows["pooled"]["missed"] == "1"


def test_a_disk_that_cannot_be_written_is_no_exception(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with caplog.at_level(logging.ERROR):
        save_report(tmp_path / "file", report(thresholds()))
    assert "Could not write" in caplog.text
