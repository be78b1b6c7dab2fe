# SPDX-License-Identifier: Apache-2.0

"""Thresholds that a person understands, for any anomalib model.

``CategoryPostProcessor`` goes where anomalib takes a ``PostProcessor``. ``write_thresholds`` and ``read_thresholds``
carry the thresholds of categories in an exported model.
"""

from typing import TYPE_CHECKING, Any

from anomalib_crad.post_processing.category_post_processor import CategoryPostProcessor
from anomalib_crad.post_processing.report import ThresholdReport
from anomalib_crad.post_processing.thresholds import Thresholds

if TYPE_CHECKING:
    from anomalib_crad.export.thresholds import ExportedThresholds, read_thresholds, write_thresholds

__all__ = [
    "CategoryPostProcessor",
    "ExportedThresholds",
    "ThresholdReport",
    "Thresholds",
    "read_thresholds",
    "write_thresholds",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Exports are a floor above; these names are public here too.
    if name in {"ExportedThresholds", "read_thresholds", "write_thresholds"}:
        from anomalib_crad.export import thresholds

        return getattr(thresholds, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
