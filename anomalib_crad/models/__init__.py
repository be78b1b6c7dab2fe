# SPDX-License-Identifier: Apache-2.0

"""The models: one folder each, and the components that they share.

`anomalib.models` comes first, whichever model is imported: the plugin publishes our models as soon as it is complete,
and a model whose own import triggered that would still be half defined. Our models are imported when they are first
used, for the same reason.
"""

from importlib import import_module
from typing import Any

import anomalib.models  # noqa: F401

import anomalib_crad

# The front of the package names the models, so that a new one needs no line here.
_DEFINED_IN = {
    name: module for name, module in anomalib_crad.PUBLIC_CLASSES.items() if module.startswith(f"{__name__}.")
}
__all__ = list(_DEFINED_IN)


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a module attribute
    if name not in _DEFINED_IN:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_DEFINED_IN[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
