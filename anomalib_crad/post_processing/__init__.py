# SPDX-License-Identifier: Apache-2.0

"""Thresholds that a person understands, for any anomalib model.

``CategoryPostProcessor`` goes where anomalib takes a ``PostProcessor``. ``write_thresholds`` and ``read_thresholds``
carry the thresholds of categories in an exported model.
"""

from anomalib_crad.export.thresholds import ExportedThresholds, read_thresholds, write_thresholds
from anomalib_crad.post_processing.category_post_processor import CategoryPostProcessor
from anomalib_crad.post_processing.report import ThresholdReport
from anomalib_crad.post_processing.thresholds import Thresholds

__all__ = [
    "CategoryPostProcessor",
    "ExportedThresholds",
    "ThresholdReport",
    "Thresholds",
    "read_thresholds",
    "write_thresholds",
]
