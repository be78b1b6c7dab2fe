# SPDX-License-Identifier: Apache-2.0

"""The datamodules, and the inspection of their images.

No file here imports from `anomalib.models`, which itself imports `anomalib.data`. `anomalib.data` is imported first,
whichever name is asked for: the plugin publishes our datamodules as soon as `anomalib.data` is complete, and a
datamodule whose own import triggered that would still be half defined.

Example:
    >>> from anomalib_crad.data import MultiCategory, check_datamodule
    >>> report = check_datamodule(MultiCategory(base="Folder", base_args={...}))  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import anomalib.data  # noqa: F401

import anomalib_crad

if TYPE_CHECKING:
    from anomalib_crad.data.inspection.data_report import DataReport, Problem, SubsetSummary
    from anomalib_crad.data.inspection.datamodule import check_datamodule

__all__ = ["DataReport", "Problem", "SubsetSummary", "check_datamodule"]

_DEFINED_IN = {
    "DataReport": "anomalib_crad.data.inspection.data_report",
    "Problem": "anomalib_crad.data.inspection.data_report",
    "SubsetSummary": "anomalib_crad.data.inspection.data_report",
    "check_datamodule": "anomalib_crad.data.inspection.datamodule",
}

# The front of the package names the datamodules, so that a new one needs no line here.
_DATAMODULES = {
    name: module for name, module in anomalib_crad.PUBLIC_CLASSES.items() if module.startswith(f"{__name__}.")
}
_DEFINED_IN.update(_DATAMODULES)
__all__.extend(_DATAMODULES)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    if name not in _DEFINED_IN:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_DEFINED_IN[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
