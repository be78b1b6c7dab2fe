# SPDX-License-Identifier: Apache-2.0

"""Deprecated place of ``discrete_memory.AttentionEntries``; to be removed in version 0.3."""

import warnings
from typing import Any

from anomalib_crad.models.crad import discrete_memory


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    if name != "Attention":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    msg = f"Import `AttentionEntries` from `{discrete_memory.__name__}`; `{__name__}` will be removed in version 0.3."
    warnings.warn(msg, DeprecationWarning, stacklevel=2)
    return discrete_memory.AttentionEntries
