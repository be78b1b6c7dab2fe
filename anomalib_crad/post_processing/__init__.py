# SPDX-License-Identifier: Apache-2.0

"""Thresholds that a person understands, for any anomalib model.

``CategoryPostProcessor`` goes where anomalib takes a ``PostProcessor``. ``write_thresholds`` and ``read_thresholds``
store the thresholds of categories in an exported model; since version 0.2 they are imported from
``anomalib_crad.export``.
"""

import warnings
from importlib import import_module
from typing import Any

from anomalib_crad.post_processing.category_post_processor import CategoryPostProcessor
from anomalib_crad.post_processing.threshold_report import ThresholdReport
from anomalib_crad.post_processing.thresholds import LevelThresholds, Threshold, Thresholds

__all__ = ["CategoryPostProcessor", "LevelThresholds", "Threshold", "ThresholdReport", "Thresholds"]

#: Names that stood here up to version 0.1. Programs that import them from here work until version 0.3.
_EXPORTED = ("ExportedThresholds", "read_thresholds", "write_thresholds")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    if name not in _EXPORTED:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    warnings.warn(f"Import {name} from anomalib_crad.export.", DeprecationWarning, stacklevel=2)
    return getattr(import_module("anomalib_crad.export"), name)
