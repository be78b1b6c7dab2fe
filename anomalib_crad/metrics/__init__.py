# SPDX-License-Identifier: Apache-2.0

"""Per-category evaluation on raw scores, for any anomalib model.

``CategoryEvaluator`` goes where anomalib takes an ``Evaluator``; ``CategoryReport`` is its result. ``CategoryMetric``
is the base class of all metrics, those of the package and a user's own. The functions work on plain arrays and need
none of these.
"""

from anomalib_crad.metrics.category_report import CategoryReport
from anomalib_crad.metrics.default_metrics import (
    DEFAULT_METRICS,
    ImageAP,
    ImageAUROC,
    ImageF1Max,
    MeanAD,
    PixelAP,
    PixelAUPRO,
    PixelAUROC,
    PixelF1Max,
)
from anomalib_crad.metrics.evaluator import CategoryEvaluator
from anomalib_crad.metrics.metric import CategoryMetric, RankedCategory, UndefinedMetricError
from anomalib_crad.metrics.overlap import aupro
from anomalib_crad.metrics.ranking import auroc, average_precision, f1_max

__all__ = [
    "DEFAULT_METRICS",
    "CategoryEvaluator",
    "CategoryMetric",
    "CategoryReport",
    "ImageAP",
    "ImageAUROC",
    "ImageF1Max",
    "MeanAD",
    "PixelAP",
    "PixelAUPRO",
    "PixelAUROC",
    "PixelF1Max",
    "RankedCategory",
    "UndefinedMetricError",
    "aupro",
    "auroc",
    "average_precision",
    "f1_max",
]
