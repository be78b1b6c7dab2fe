# SPDX-License-Identifier: Apache-2.0

"""The models: one folder each, and the components that they share.

`anomalib.models` comes first, whichever model is imported: the plugin publishes our models as soon as it is complete,
and a model whose own import triggered that would still be half defined. Our models are imported when they are first
used, for the same reason.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import anomalib.models  # noqa: F401

if TYPE_CHECKING:
    from anomalib_crad.models.crad import Crad
    from anomalib_crad.models.dmad import Dmad
    from anomalib_crad.models.uniad import UniAD

__all__ = ["Crad", "Dmad", "UniAD"]

_FOLDERS = {"Crad": "crad", "Dmad": "dmad", "UniAD": "uniad"}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a module attribute
    if name in _FOLDERS:
        return getattr(import_module(f"{__name__}.{_FOLDERS[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
