# SPDX-License-Identifier: Apache-2.0

"""An evaluation that gets its categories one by one."""

import gc
import weakref

import numpy as np
import pytest

from anomalib_crad.metrics import CategoryMetric, ImageAUROC, PixelAP, auroc, f1_max
from anomalib_crad.metrics.evaluation import Evaluation
from anomalib_crad.recording import ImageRecord

# Each category is perfect by itself, yet no single threshold serves both.
SCORES = {"nut": [1.0, 2.0, 3.0], "bolt": [11.0, 12.0, 13.0]}


def make_images(scores: list[float]) -> list[ImageRecord]:
    """Make images of which the highest-scored one is anomalous."""
    mask = np.array([[False, True]])
    return [
        ImageRecord("", score == max(scores), score, np.array([[0, score]], np.float32), mask & (score == max(scores)))
        for score in scores
    ]


def evaluate(**arguments: list[CategoryMetric]) -> Evaluation:
    evaluation = Evaluation(**arguments)
    for category, scores in SCORES.items():
        evaluation.add(category, make_images(scores))
    return evaluation


def test_pooled_metrics_are_of_all_images_under_one_scale() -> None:
    report = evaluate().report()
    assert report.mean["image_AUROC"] == report.mean["image_F1Max"] == 1
    assert report.pooled is not None
    scores = np.array([score for scores in SCORES.values() for score in scores])
    labels = np.isin(scores, [3, 13])
    assert report.pooled.values == {"image_AUROC": auroc(scores, labels), "image_F1Max": f1_max(scores, labels)}
    assert report.pooled.values["image_AUROC"] == pytest.approx(6 / 8)
    assert (report.pooled.normal, report.pooled.anomalous) == (4, 2)


def test_categories_are_sorted_and_expected_ones_without_images_say_so() -> None:
    report = evaluate().report(expected=["washer", "nut"])
    assert [result.category for result in report.categories] == ["bolt", "nut", "washer"]
    assert set(report.categories[-1].missing.values()) == {"no image was tested", "it is the mean of all seven others"}


def test_only_what_is_asked_for_is_measured() -> None:
    report = evaluate(metrics=[ImageAUROC(), PixelAP()]).report()
    assert set(report.mean) == {"image_AUROC", "pixel_AP"}
    assert report.pooled_values == {"pooled/image_AUROC": pytest.approx(6 / 8)}


def test_without_any_image_there_is_no_pooled_result() -> None:
    assert Evaluation().report().pooled is None


def test_no_map_is_kept() -> None:
    evaluation = Evaluation()
    images = make_images(SCORES["nut"])
    maps = [weakref.ref(image.anomaly_map) for image in images] + [weakref.ref(image.mask) for image in images]
    evaluation.add("nut", images)
    del images
    gc.collect()
    assert [reference() for reference in maps] == [None] * 6
