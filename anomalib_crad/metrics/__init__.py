# SPDX-License-Identifier: Apache-2.0

"""Per-category evaluation on raw scores, for any anomalib model.

``CategoryEvaluator`` goes where anomalib takes an ``Evaluator``; ``CategoryReport`` is what it found. The functions
work on plain arrays and need neither.
"""

from anomalib_crad.metrics.evaluator import CategoryEvaluator
from anomalib_crad.metrics.overlap import aupro
from anomalib_crad.metrics.ranking import auroc, average_precision, f1_max
from anomalib_crad.metrics.report import CategoryReport

__all__ = ["CategoryEvaluator", "CategoryReport", "aupro", "auroc", "average_precision", "f1_max"]
