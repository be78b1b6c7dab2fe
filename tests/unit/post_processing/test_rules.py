# SPDX-License-Identifier: Apache-2.0

"""The rules, against a search through every threshold by hand, with ties, one class only, and wishes out of reach."""

from collections.abc import Iterable

import numpy as np
import pytest

from anomalib_crad.post_processing.rules import check_rate, check_rule, find_threshold
from anomalib_crad.post_processing.score_table import PixelCounts, ScoreTable


def table(normal: Iterable[float], anomalous: Iterable[float] = ()) -> ScoreTable:
    normal, anomalous = list(normal), list(anomalous)
    labels = np.array([False] * len(normal) + [True] * len(anomalous), bool)
    return ScoreTable.of(np.array([*normal, *anomalous], np.float32), labels)


def rates(threshold: float, normal: np.ndarray, anomalous: np.ndarray) -> tuple[float, float, float]:
    """Return precision, recall and F1."""
    found, false_alarms = (anomalous > threshold).sum(), (normal > threshold).sum()
    precision = found / max(found + false_alarms, 1)
    return precision, found / anomalous.size, 2 * found / (found + false_alarms + anomalous.size)


@pytest.fixture(params=range(5))
def sets(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores of both classes with many ties."""
    rng = np.random.default_rng(request.param)
    normal, anomalous = rng.normal(0, 1, 60).round(1), rng.normal(1.2, 1.5, 40).round(1)
    return normal.astype(np.float32), anomalous.astype(np.float32)


@pytest.mark.parametrize(("rule", "target"), [("best_f1", None), ("recall", 0.9), ("recall", 1.0), ("precision", 0.8)])
def test_no_other_threshold_is_better(sets: tuple[np.ndarray, np.ndarray], rule: str, target: float | None) -> None:
    normal, anomalous = sets
    every = [-99.0, *np.unique(np.concatenate(sets)).tolist()]
    found = find_threshold(table(normal, anomalous), rule, target)
    precision, recall, f1 = rates(found.threshold.value, normal, anomalous)
    others = [rates(threshold, normal, anomalous) for threshold in every]
    assert not found.problem
    if rule == "best_f1":
        assert f1 == max(other[2] for other in others)
    elif target is not None and rule == "recall":
        assert recall >= target
        assert precision == max(other[0] for other in others if other[1] >= target)
    elif target is not None:
        assert precision >= target
        assert recall == max(other[1] for other in others if other[0] >= target)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.29, 0.5])
def test_false_alarm_rate_keeps_its_promise_and_no_more(rate: float) -> None:
    normal = np.random.default_rng(0).normal(size=100).astype(np.float32)
    found = find_threshold(table(normal, [99] * 7), "false_alarm_rate", rate)
    assert (normal > found.threshold.value).sum() == round(rate * 100)
    assert found.threshold.value in normal, "the lowest threshold that keeps it is a normal score"
    assert not found.problem


def test_false_alarm_rate_with_ties_stays_below_the_wish() -> None:
    normal = [1] * 50 + [2] * 50
    assert find_threshold(table(normal), "false_alarm_rate", 0.3).threshold.value == 2
    assert find_threshold(table(normal), "false_alarm_rate", 0.5).threshold.value == 1


def test_false_alarm_rate_ignores_anomalous_scores() -> None:
    normal = np.linspace(0, 1, 50)
    alone = find_threshold(table(normal), "false_alarm_rate", 0.1).threshold.value
    assert find_threshold(table(normal, np.linspace(-3, 3, 31)), "false_alarm_rate", 0.1).threshold.value == alone


def test_too_few_normal_scores_are_said_so() -> None:
    found = find_threshold(table([0.1, 0.5, 0.3]), "false_alarm_rate", 0.01)
    assert found.threshold.value == np.float32(0.5)
    assert "at least 100 normal images" in found.problem
    assert found.detail == "N = 3"


def test_no_normal_scores_at_all() -> None:
    found = find_threshold(table([], [2, 3]), "false_alarm_rate", 0.01)
    assert found.threshold.value < 2
    assert found.threshold.value == pytest.approx(2)
    assert "no normal images" in found.problem
    assert find_threshold(table([], [2, 3]), "best_f1").threshold.value == found.threshold.value


def test_a_gap_is_cut_in_the_middle() -> None:
    for rule, target in (("best_f1", None), ("recall", 0.5), ("precision", 0.9)):
        assert find_threshold(table([0, 1], [3, 4, 5]), rule, target).threshold.value == 2


def test_neighbouring_floats_are_told_apart() -> None:
    low = np.float32(0.1)
    high = np.nextafter(low, np.float32(1))
    value = find_threshold(table([float(low)], [float(high)]), "best_f1").threshold.value
    assert low <= np.float32(value) < high


def test_equal_f1_prefers_fewer_misses() -> None:
    """Below all, 2 of 2 are found with 2 false alarms; below the highest, 1 with none: F1 is 2/3 twice."""
    assert find_threshold(table([2, 3], [1, 4]), "best_f1").threshold.value < 1


def test_a_precision_out_of_reach_gives_the_nearest() -> None:
    found = find_threshold(table([5, 6, 1], [2, 3, 4]), "precision", 0.9)
    assert found.threshold.value == pytest.approx(1.5)
    assert "a precision of 0.9 is out of reach" in found.problem
    assert found.detail == "0.6000"


def test_scale_is_the_usual_distance_of_a_normal_score() -> None:
    assert find_threshold(table([1, 2, 3], [9, 10]), "best_f1").threshold.scale == 4
    assert find_threshold(table([], [1, 2, 3]), "best_f1").threshold.scale == pytest.approx(1)


@pytest.mark.parametrize("score", [0.0, 1.0, -7.5, 3e7])
def test_scale_is_never_zero(score: float) -> None:
    threshold = find_threshold(table([score] * 9), "false_alarm_rate", 0.2).threshold
    assert threshold.scale > 0
    assert np.float32(threshold.value) + np.float32(threshold.scale) > np.float32(threshold.value)


def test_pixels_come_within_a_row_of_the_exact_threshold() -> None:
    rng = np.random.default_rng(3)
    scores = rng.gamma(3, 0.1, 40_000).astype(np.float32)
    labels = rng.random(40_000) < 0.02
    scores[labels] += 0.5
    counts = PixelCounts()
    counts.add(scores, np.where(labels, PixelCounts.ANOMALOUS, PixelCounts.OF_NORMAL_IMAGES))
    exact = find_threshold(ScoreTable.of(scores, labels), "best_f1").threshold.value
    near = find_threshold(counts.labelled(), "best_f1", unit="pixels").threshold.value
    assert rates(near, scores[~labels], scores[labels])[2] == pytest.approx(
        rates(exact, scores[~labels], scores[labels])[2],
        abs=1e-3,
    )
    rate = find_threshold(counts.of_normal_images(), "false_alarm_rate", 0.001, "pixels").threshold.value
    exact_rate = find_threshold(ScoreTable.of(scores[~labels], labels[~labels]), "false_alarm_rate", 0.001)
    assert exact_rate.threshold.value <= rate <= exact_rate.threshold.value * (1 + 1 / 2048)


@pytest.mark.parametrize(
    ("rule", "target", "message"),
    [
        ("f1", None, "rule must be one of best_f1, false_alarm_rate, recall, precision, got 'f1'"),
        ("best_f1", 0.5, "rule 'best_f1' has no target, got target=0.5"),
        ("false_alarm_rate", 1.0, "target is a false-alarm rate and must be at least 0 and below 1, got 1.0"),
        ("recall", 0.0, "target of rule 'recall' must be above 0 and at most 1, got 0.0"),
        ("precision", 1.1, "target of rule 'precision' must be above 0 and at most 1, got 1.1"),
    ],
)
def test_wrong_arguments_are_named(rule: str, target: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rule(rule, target)


def test_a_rate_is_checked_under_its_name() -> None:
    with pytest.raises(ValueError, match=r"pixel_false_alarm_rate is a false-alarm rate .* got -0.1"):
        check_rate("pixel_false_alarm_rate", -0.1)


def test_rules_say_what_they_need() -> None:
    with pytest.raises(ValueError, match="needs scores, and there are none of images"):
        find_threshold(table([]), "best_f1")
    with pytest.raises(ValueError, match="rule 'recall' needs anomalous pixels"):
        find_threshold(table([1]), "recall", unit="pixels")
