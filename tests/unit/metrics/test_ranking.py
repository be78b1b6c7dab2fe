# SPDX-License-Identifier: Apache-2.0

"""AUROC, average precision and best F1 against scikit-learn, against cases counted by hand, and what they refuse."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomalib_crad.metrics import auroc, average_precision, f1_max

Metric = Callable[[NDArray[np.floating], NDArray[np.bool_]], float]


def best_f1_score(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [(auroc, roc_auc_score), (average_precision, average_precision_score), (f1_max, best_f1_score)],
)
@pytest.mark.parametrize("levels", [2, 5, 10_000], ids=["mostly ties", "many ties", "few ties"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_metric_is_that_of_scikit_learn(
    metric: Metric,
    reference: Callable[..., float],
    levels: int,
    dtype: type[np.floating],
) -> None:
    rng = np.random.default_rng(levels)
    labels = rng.random((4, 40, 30)) < 0.1
    scores = ((rng.integers(0, levels, labels.shape) + levels // 2 * labels) * 1e3 - 7).astype(dtype)
    assert metric(scores, labels) == pytest.approx(reference(labels.ravel(), scores.ravel()), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], 0.0), ([1, 1, 1, 1], 0.5), ([1, 3, 2, 4], 0.75), ([1, 2, 2, 3], 0.875)],
)
def test_auroc_counts_pairs_and_half_of_the_ties(scores: list[float], expected: float) -> None:
    assert auroc(np.array(scores, float), np.array([False, False, True, True])) == expected


@pytest.mark.parametrize(
    ("scores", "precision", "f1"),
    [
        ([1, 2, 3, 4], 1, 1),
        ([4, 3, 2, 1], (1 / 3 + 2 / 4) / 2, 2 / 3),
        ([1, 1, 1, 1], 2 / 4, 2 / 3),
        ([1, 3, 2, 4], (1 + 2 / 3) / 2, 4 / 5),
        ([1, 2, 2, 3], (1 + 2 / 3) / 2, 4 / 5),
    ],
)
def test_average_precision_and_best_f1_count_ties_together(scores: list[float], precision: float, f1: float) -> None:
    values, labels = np.array(scores, float), np.array([False, False, True, True])
    assert average_precision(values, labels) == pytest.approx(precision, abs=1e-15)
    assert f1_max(values, labels) == f1


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max])
def test_a_metric_is_not_bound_to_a_range_of_scores(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.3
    scores = rng.normal(size=200) + labels
    assert metric(np.exp(5 * scores), labels) == metric(scores, labels)


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [True, True], "2 anomalous and 0 normal"),
        ([1.0, 2.0], [False, False], "0 anomalous and 2 normal"),
        ([1.0, np.nan], [True, False], "NaN or infinite"),
        ([1.0], [True, False], r"\(1,\) and \(2,\)"),
    ],
)
def test_a_metric_names_what_it_cannot_measure(
    metric: Metric,
    scores: list[float],
    labels: list[bool],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(np.array(scores), np.array(labels))
