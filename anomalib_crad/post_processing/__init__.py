# SPDX-License-Identifier: Apache-2.0

"""Thresholds that a person understands, for any anomalib model.

``CategoryPostProcessor`` goes where anomalib takes a ``PostProcessor``. ``write_thresholds`` and ``read_thresholds``
store the thresholds of categories in an exported model; they live in ``export`` and are resolved on first use, because
that room uses this one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomalib_crad.post_processing.category_post_processor import CategoryPostProcessor
from anomalib_crad.post_processing.report import ThresholdReport
from anomalib_crad.post_processing.thresholds import LevelThresholds, Threshold, Thresholds

if TYPE_CHECKING:
    from anomalib_crad.export.thresholds import ExportedThresholds, read_thresholds, write_thresholds

__all__ = [
    "CategoryPostProcessor",
    "ExportedThresholds",
    "LevelThresholds",
    "Threshold",
    "ThresholdReport",
    "Thresholds",
    "read_thresholds",
    "write_thresholds",
]

_EXPORTED = ("ExportedThresholds", "read_thresholds", "write_thresholds")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    if name not in _EXPORTED:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module("anomalib_crad.export.thresholds"), name)
