# SPDX-License-Identifier: Apache-2.0

"""Compressions that cannot be done are refused before anything is exported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from anomalib.deploy import CompressionType
from anomalib.metrics import F1Score

from anomalib_crad import MVTec
from anomalib_crad.models.components.export.compression import check_compression

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


def test_accuracy_control_takes_a_metric_and_a_share(tiny_root: Path) -> None:
    data, metric = MVTec(root=tiny_root, category="blue"), F1Score(fields=["pred_label", "gt_label"])
    check_compression(CompressionType.INT8_ACQ, data, metric, 0.02)
    with pytest.raises(ValueError, match="max_drop is a share of the metric and must be from 0 to 1, got 2"):
        check_compression(CompressionType.INT8_ACQ, data, metric, 2)
    with pytest.raises(ValueError, match=r"metric must be a metric of anomalib.*got 'AUROC'"):
        check_compression(CompressionType.INT8_ACQ, data, "AUROC", 0.01)  # type: ignore[arg-type]
