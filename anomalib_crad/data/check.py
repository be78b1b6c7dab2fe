# SPDX-License-Identifier: Apache-2.0

"""Deprecated place of ``check_datamodule``, which is now in ``anomalib_crad.data``; to be removed in version 0.3."""

import warnings
from typing import Any

import anomalib_crad.data


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    if name != "check_datamodule":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    msg = f"Import `{name}` from `anomalib_crad.data`; `{__name__}` will be removed in version 0.3."
    warnings.warn(msg, DeprecationWarning, stacklevel=2)
    return anomalib_crad.data.check_datamodule
