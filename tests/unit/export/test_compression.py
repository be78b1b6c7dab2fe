# SPDX-License-Identifier: Apache-2.0

"""Compressions that cannot be done are refused before anything is exported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from anomalib.deploy import CompressionType
from anomalib.metrics import AUROC, F1Score

from anomalib_crad import MVTec
from anomalib_crad.export.compression import check_compression

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("compression", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
def test_quantising_needs_images(compression: CompressionType, tiny_root: Path) -> None:
    with pytest.raises(ValueError, match=rf"compression_type={compression.name} reads training images.*--data"):
        check_compression(compression, None, None, 0.01)
    check_compression(compression, MVTec(root=tiny_root, category="blue"), None, 0.01)


@pytest.mark.parametrize("compression", [None, CompressionType.FP16, CompressionType.INT8])
def test_compressing_weights_needs_none(compression: CompressionType | None) -> None:
    check_compression(compression, None, None, 0.01)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    check_compression(CompressionType.FP16, None, None, 0.01)
    with pytest.raises(ModuleNotFoundError, match=r"compression_type=INT8 needs nncf.*anomalib-crad\[openvino\]"):
        check_compression(CompressionType.INT8, None, None, 0.01)


def test_accuracy_control_takes_a_metric_and_a_drop(tiny_root: Path) -> None:
    data, metric = MVTec(root=tiny_root, category="blue"), F1Score(fields=["pred_label", "gt_label"])
    check_compression(CompressionType.INT8_ACQ, data, metric, 0.02)
    with pytest.raises(ValueError, match=r"max_drop is how far the metric may drop .* must be from 0 to 1, got 2"):
        check_compression(CompressionType.INT8_ACQ, data, metric, 2)
    with pytest.raises(ValueError, match=r"metric must be a metric of anomalib.*got 'AUROC'"):
        check_compression(CompressionType.INT8_ACQ, data, "AUROC", 0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize("val_split_mode", ["none", "from_train"])
def test_accuracy_control_needs_both_labels(val_split_mode: str, tiny_root: Path) -> None:
    data = MVTec(root=tiny_root, category="blue", val_split_mode=val_split_mode)
    with pytest.raises(ValueError, match=r"INT8_ACQ needs validation images with both labels.*val_split_mode same_as"):
        check_compression(CompressionType.INT8_ACQ, data, None, 0.01)
    check_compression(CompressionType.INT8_PTQ, data, None, 0.01)


def test_no_training_image_is_too_few(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = MVTec(root=tiny_root, category="blue")
    data.setup("fit")
    data.train_data = data.train_data.subsample([])
    monkeypatch.setattr(data, "setup", lambda stage: stage)
    with pytest.raises(ValueError, match=r"INT8_PTQ reads training images .* the datamodule has none"):
        check_compression(CompressionType.INT8_PTQ, data, None, 0.01)


@pytest.mark.parametrize("fields", [["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]])
def test_a_metric_of_scores_needs_scores_that_are_not_raw(fields: list[str], tiny_root: Path) -> None:
    data, metric = MVTec(root=tiny_root, category="blue"), AUROC(fields=fields)
    check_compression(CompressionType.INT8_ACQ, data, metric, 0.01, raw_scores=False)
    with pytest.raises(ValueError, match="metric reads scores, but the exported ones are raw"):
        check_compression(CompressionType.INT8_ACQ, data, metric, 0.01, raw_scores=True)
    of_labels = F1Score(fields=["pred_label", "gt_label"])
    check_compression(CompressionType.INT8_ACQ, data, of_labels, 0.01, raw_scores=True)
