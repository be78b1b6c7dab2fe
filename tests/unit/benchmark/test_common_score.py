# SPDX-License-Identifier: Apache-2.0

"""The image score that is the same for all models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomalib_crad.benchmark.common_score import CommonScoreEvaluator, largest_window_mean
from anomalib_crad.metrics import DEFAULT_METRICS
from anomalib_crad.recording import ImageRecord


@pytest.mark.parametrize(("shape", "window"), [((40, 30), 8), ((40, 30), 1), ((10, 50), 32), ((5, 5), 32)])
def test_it_is_the_maximum_of_average_pooling(shape: tuple[int, int], window: int) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    sides = (min(window, shape[0]), min(window, shape[1]))
    expected = functional.avg_pool2d(torch.from_numpy(values)[None, None].double(), sides, stride=1).max().item()
    assert largest_window_mean(values, window) == pytest.approx(expected, rel=1e-12)


def test_both_scores_are_measured_and_differ() -> None:
    """The model's own scores are right about the images, the maps are wrong."""
    evaluator = CommonScoreEvaluator(score_window=2)
    evaluation = evaluator.new_evaluation(DEFAULT_METRICS)
    maps = {False: np.ones((4, 4), np.float32), True: np.zeros((4, 4), np.float32)}
    evaluation.add("cap", [ImageRecord("", anomalous, float(anomalous), maps[anomalous], None) for anomalous in maps])
    report = evaluation.report(["cap"])
    assert report.mean["image_AUROC"] == pytest.approx(1.0)
    assert evaluator.common_report is not None
    assert evaluator.common_report.mean["image_AUROC"] == pytest.approx(0.0)
    assert evaluator.common_report.pooled_values["pooled/image_AUROC"] == pytest.approx(0.0)


def test_a_model_without_maps_has_no_common_score() -> None:
    evaluator = CommonScoreEvaluator(score_window=2)
    evaluation = evaluator.new_evaluation(DEFAULT_METRICS)
    evaluation.add("cap", [ImageRecord("", anomalous, float(anomalous), None, None) for anomalous in (True, False)])
    evaluation.report(["cap"])
    assert evaluator.common_report is not None
    assert evaluator.common_report.mean == {}
