# SPDX-License-Identifier: Apache-2.0

"""What is kept of a batch, and which thresholds come of an epoch: pooled, of each category, with and without masks."""

from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_crad.post_processing import epoch_scores
from anomalib_crad.post_processing.epoch_scores import EpochScores, find_thresholds
from anomalib_crad.post_processing.thresholds import Thresholds
from anomalib_crad.recording import ONLY_CATEGORY, split_batch


def make_batch(scores: list[float], labels: list[int], **fields: Any) -> ImageBatch:  # noqa: ANN401
    values: dict[str, Any] = {
        "image": torch.zeros(len(scores), 3, 4, 4),
        "pred_score": torch.tensor(scores),
        "gt_label": torch.tensor(labels),
    }
    return ImageBatch(**(values | fields))


def record(batch: ImageBatch, categories: list[str] | None = None, pixels: bool = True) -> EpochScores:
    epoch = EpochScores(pixels)
    for i, image in enumerate(split_batch(batch, batch)):
        epoch.add(categories[i] if categories else ONLY_CATEGORY, image)
    return epoch


def find(epoch: EpochScores, rule: str = "best_f1", target: float | None = None, **arguments: Any) -> Thresholds:  # noqa: ANN401
    settings: dict[str, Any] = {"pixel_false_alarm_rate": 0.25, "per_category": True}
    return find_thresholds(epoch.categories, rule, target, **(settings | arguments))


def value(thresholds: Thresholds, category: str | None = None, level: str = "image") -> float:
    found = getattr(thresholds.of(category), level)
    assert found is not None
    return found.value


def test_each_category_has_its_own_threshold_beside_the_pooled_one() -> None:
    batch = make_batch([1, 3, 11, 13], [0, 1, 0, 1])
    thresholds = find(record(batch, ["cable", "cable", "tile", "tile"]))
    assert value(thresholds, "cable") == 2
    assert value(thresholds, "tile") == 12
    assert value(thresholds) == pytest.approx(2)
    assert thresholds.pooled.pixel is None


def test_one_for_all_leaves_categories_out() -> None:
    batch = make_batch([1, 3, 11, 13], [0, 1, 0, 1])
    assert not find(record(batch, ["cable", "cable", "tile", "tile"]), per_category=False).categories


def test_images_of_no_known_category_are_pooled_only() -> None:
    assert not find(record(make_batch([1, 3], [0, 1]))).categories


def test_an_all_normal_category_falls_back_and_is_said_so() -> None:
    said: list[str] = []
    batch = make_batch([1, 3, 7, 5], [0, 1, 0, 0])
    thresholds = find(record(batch, ["cable", "cable", "tile", "tile"]), "recall", warn=said.append)
    assert value(thresholds, "tile") == 7
    (message,) = said
    assert message.startswith("Threshold of tile (N = 2): rule 'recall' needs anomalous images")
    assert "a false-alarm rate of 0.01 was used" in message


def test_an_all_anomalous_category_calls_everything_anomalous() -> None:
    batch = make_batch([4, 6, 1, 2], [1, 1, 0, 1])
    thresholds = find(record(batch, ["cable", "cable", "tile", "tile"]))
    assert 3.999 < value(thresholds, "cable") < 4


def test_problems_are_said_once_with_all_that_have_them() -> None:
    said: list[str] = []
    batch = make_batch([1, 3, 11, 13], [0, 0, 0, 0])
    find(record(batch, ["cable", "cable", "tile", "tile"]), "false_alarm_rate", warn=said.append)
    (message,) = said
    assert message.startswith("Threshold of all images pooled (N = 4), cable (N = 2), tile (N = 2): a false-alarm rate")


def test_scores_that_are_not_finite_are_left_out_and_counted() -> None:
    said: list[str] = []
    maps = torch.ones(4, 1, 4, 4)
    maps[0, 0, 0, 0] = torch.inf
    batch = make_batch([1, 3, torch.nan, torch.inf], [0, 1, 1, 0], anomaly_map=maps)
    thresholds = find(record(batch, ["cable", "cable", "tile", "cable"]), warn=said.append)
    assert value(thresholds, "cable") == 2
    assert value(thresholds, "tile") == value(thresholds) == 2, "nothing is left of it, so the pooled one is used"
    assert "NaN or infinite" in said[-1]
    assert said[-1].endswith("cable: 2, tile: 1.")


def test_pixels_follow_the_rule_where_masks_exist() -> None:
    mask = torch.zeros(2, 4, 4)
    mask[1, :2] = 1
    maps = torch.full((2, 1, 4, 4), 1.0)
    maps[1, 0, :2] = 5
    thresholds = find(record(make_batch([1, 5], [0, 1], anomaly_map=maps, gt_mask=mask)))
    assert value(thresholds, level="pixel") == pytest.approx(3, rel=1e-3)


def test_pixels_of_normal_images_where_no_masks_exist() -> None:
    maps = torch.arange(32.0).reshape(2, 1, 4, 4)
    thresholds = find(record(make_batch([1, 5], [0, 1], anomaly_map=maps)))
    assert value(thresholds, level="pixel") == pytest.approx(11, rel=1e-3), "a quarter of 0 ... 15 lies above"


def test_the_false_alarm_rule_ignores_masks() -> None:
    maps = torch.arange(32.0).reshape(2, 1, 4, 4)
    mask = torch.zeros(2, 4, 4)
    mask[1, 0] = 1
    thresholds = find(record(make_batch([1, 5], [0, 1], anomaly_map=maps, gt_mask=mask)), "false_alarm_rate", 0.0)
    assert value(thresholds, level="pixel") == pytest.approx(11, rel=1e-3)


def test_an_anomalous_image_without_annotation_tells_nothing_of_pixels() -> None:
    maps = torch.stack([torch.full((1, 4, 4), 1.0), torch.full((1, 4, 4), 9.0), torch.full((1, 4, 4), 1.0)])
    mask = torch.zeros(3, 4, 4)
    mask[2, 0] = 1
    maps[2, 0, 0] = 5
    epoch = record(make_batch([1, 9, 5], [0, 1, 1], anomaly_map=maps, gt_mask=mask))
    pixels = epoch.categories[ONLY_CATEGORY].pixels.labelled()
    assert (pixels.normals, pixels.anomalies) == (16 + 12, 4)


def test_without_labels_nothing_is_recorded() -> None:
    batch = make_batch([1, 2], [0, 1])
    batch.gt_label = None
    assert not record(batch).categories


def test_processes_put_their_scores_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, of which one has an image of one category only, find what one process finds."""
    maps = torch.arange(64.0).reshape(4, 1, 4, 4)
    whole = make_batch([1, 3, 11, 13], [0, 1, 0, 1], anomaly_map=maps)
    share = make_batch([1, 3, 11], [0, 1, 0], anomaly_map=maps[:3])
    rest = make_batch([13], [1], anomaly_map=maps[3:])
    own, other = record(share, ["cable", "cable", "tile"]), record(rest, ["tile"])

    monkeypatch.setattr(epoch_scores, "gather_everywhere", lambda value: [value, other.categories])
    own.gather()
    assert find(own) == find(record(whole, ["cable", "cable", "tile", "tile"]))


def test_a_test_counts_no_pixels() -> None:
    batch = make_batch([1], [0], anomaly_map=torch.ones(1, 1, 4, 4))
    assert not record(batch, pixels=False).categories[ONLY_CATEGORY].pixels.labelled().normals


def test_maps_and_masks_of_different_size_are_an_error() -> None:
    batch = make_batch([1], [0], anomaly_map=torch.ones(1, 1, 4, 4), gt_mask=torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match=r"anomaly_map \(1, 4, 4\) and gt_mask \(1, 8, 8\) differ in size"):
        record(batch)


def test_half_precision_and_column_scores_are_read() -> None:
    batch = make_batch([1, 2], [0, 1])
    batch.pred_score = torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16)
    np.testing.assert_equal(record(batch).categories[ONLY_CATEGORY].scores, [1, 2])
