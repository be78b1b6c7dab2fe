# SPDX-License-Identifier: Apache-2.0

"""One category: which metrics exist, with which reason they do not, and agreement with the authors' evaluation."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from anomalib_crad.metrics import ImageAP, ImageAUROC, PixelAUROC
from anomalib_crad.metrics.evaluation import Evaluation, evaluate_category
from anomalib_crad.recording import ImageRecord

IMAGE_METRICS = ("image_AUROC", "image_AP", "image_F1Max")
PIXEL_METRICS = ("pixel_AUROC", "pixel_AP", "pixel_F1Max", "pixel_AUPRO")
GOLDEN = Path(__file__).parents[4] / "shared" / "golden" / "crad_eval.npz"


def make_record(
    score: float | None,
    *,
    anomalous: bool,
    pixels: list[float] | None = None,
    mask: list[int] | None = None,
) -> ImageRecord:
    return ImageRecord(
        path="image.png",
        anomalous=anomalous,
        score=score,
        anomaly_map=None if pixels is None else np.array([pixels], np.float32),
        mask=None if mask is None else np.array([mask], bool),
    )


def test_image_and_pixel_metrics_are_measured() -> None:
    images = [
        make_record(1.0, anomalous=False, pixels=[1, 2], mask=[0, 0]),
        make_record(3.0, anomalous=False, pixels=[1, 6], mask=[0, 0]),
        make_record(2.0, anomalous=True, pixels=[4, 7], mask=[0, 1]),
        make_record(9.0, anomalous=True, pixels=[5, 1], mask=[1, 0]),
    ]
    result = evaluate_category("nut", images)
    assert (result.category, result.normal, result.anomalous) == ("nut", 2, 2)
    seven = {
        "image_AUROC": 3 / 4,
        "image_AP": (1 + 2 / 3) / 2,
        "image_F1Max": 4 / 5,
        "pixel_AUROC": 11 / 12,
        "pixel_AP": (1 + 2 / 3) / 2,
        "pixel_F1Max": 4 / 5,
        # Two regions: half at no false positive, all from one of six on.
        "pixel_AUPRO": (1 / 6 * 1 / 2 + (0.3 - 1 / 6)) / 0.3,
    }
    assert result.values == pytest.approx({**seven, "mAD": sum(seven.values()) / 7}, abs=1e-12)
    assert not result.missing


def test_only_what_is_asked_for_is_measured() -> None:
    images = [make_record(1.0, anomalous=False, pixels=[1, 2], mask=[0, 0]), make_record(2.0, anomalous=True)]
    result = evaluate_category("nut", images, [ImageAP()])
    assert result.values == {"image_AP": 1.0}
    assert not result.missing


def test_a_category_without_images_says_so() -> None:
    result = evaluate_category("nut", [])
    assert not result.values
    reasons = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS), "no image was tested")
    assert result.missing == {**reasons, "mAD": "it is the mean of all seven others"}


@pytest.mark.parametrize(
    ("images", "image_level", "pixel_level"),
    [
        (
            [make_record(1.0, anomalous=False), make_record(2.0, anomalous=True)],
            None,
            "the model gives no anomaly maps",
        ),
        (
            [make_record(1.0, anomalous=False, pixels=[1]), make_record(2.0, anomalous=True, pixels=[2])],
            None,
            "no image has a mask",
        ),
        (
            [make_record(1, anomalous=False, pixels=[1], mask=[0]), make_record(2, anomalous=True, pixels=[2])],
            None,
            "no anomalous image has a mask",
        ),
        (
            [make_record(1.0, anomalous=False, pixels=[1], mask=[0])] * 2,
            "every image is normal",
            "every pixel is normal",
        ),
        (
            [make_record(1.0, anomalous=True, pixels=[1], mask=[1])] * 2,
            "every image is anomalous",
            "every pixel is anomalous",
        ),
        (
            [
                make_record(None, anomalous=False, pixels=[1], mask=[0]),
                make_record(None, anomalous=True, pixels=[2], mask=[1]),
            ],
            "the model gives no image scores",
            None,
        ),
        (
            [
                make_record(float("nan"), anomalous=False, pixels=[1], mask=[0]),
                make_record(1.0, anomalous=True, pixels=[float("inf")], mask=[1]),
            ],
            "some image scores are NaN or infinite",
            "some pixel scores are NaN or infinite",
        ),
    ],
)
def test_a_metric_that_does_not_exist_is_absent_with_its_reason(
    images: list[ImageRecord],
    image_level: str | None,
    pixel_level: str | None,
) -> None:
    result = evaluate_category("nut", images)
    missing = {"mAD": "it is the mean of all seven others"}
    for names, reason in ((IMAGE_METRICS, image_level), (PIXEL_METRICS, pixel_level)):
        missing |= dict.fromkeys(names, reason) if reason else {}
    assert result.missing == missing
    assert set(result.values) == {*IMAGE_METRICS, *PIXEL_METRICS} - set(missing)


def test_anomalous_images_without_a_mask_are_left_out_of_pixel_metrics(caplog: pytest.LogCaptureFixture) -> None:
    images = [
        make_record(1.0, anomalous=False, pixels=[1, 2], mask=[0, 0]),
        make_record(2.0, anomalous=True, pixels=[4, 1], mask=[1, 0]),
        make_record(2.0, anomalous=True, pixels=[0, 0]),
    ]
    with caplog.at_level(logging.WARNING):
        assert evaluate_category("nut", images).values["pixel_AUROC"] == 1
    assert "leave out 1 anomalous images that have no mask" in caplog.text


@pytest.mark.skipif(not GOLDEN.exists(), reason="the recorded evaluation is not part of the package")
def test_the_authors_evaluation_gives_the_same_numbers() -> None:
    recorded = np.load(GOLDEN)
    maps = torch.from_numpy(recorded["preds"]).unsqueeze(1)
    smoothed = avg_pool2d(maps, 21, stride=1, padding=10)
    scores = avg_pool2d(smoothed, 32, stride=1).amax(dim=(1, 2, 3))
    images: dict[str, list[ImageRecord]] = {}
    evaluation = Evaluation([ImageAUROC(), PixelAUROC()])
    for i, category in enumerate(recorded["categories"].tolist()):
        mask = recorded["masks"][i].astype(bool)
        image = ImageRecord("", bool(mask.any()), float(scores[i]), smoothed[i, 0].numpy(), mask)
        images.setdefault(category, []).append(image)

    for name, records in images.items():
        evaluation.add(name, records)
    report = evaluation.report()

    # The authors count a category below 0.5 as its mirror image; the product never does.
    flipped = {name: max(value, 1 - value) for name, value in report.per_category.items()}
    assert len(flipped) == 6
    for category in ("bottle", "screw", "tile"):
        assert flipped[f"image_AUROC/{category}"] == pytest.approx(float(recorded[f"{category}_max_auc"]), abs=1e-9)
        assert flipped[f"pixel_AUROC/{category}"] == pytest.approx(float(recorded[f"{category}_pixel_auc"]), abs=1e-6)
    assert report.per_category["image_AUROC/tile"] == pytest.approx(1 - float(recorded["tile_max_auc"]))
