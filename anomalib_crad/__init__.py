# SPDX-License-Identifier: Apache-2.0

"""CRAD and unified multi-class anomaly detection for anomalib.

The public names are resolved when they are first used: importing this package imports neither torch nor anomalib. The
import does register our classes with anomalib, as `import torch` also does (see `docs/plugin.md`).

Example:
    >>> from anomalib_crad import Crad
    >>> Crad.__name__
    'Crad'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomalib_crad import plugin

if TYPE_CHECKING:
    from anomalib_crad.data.elpv import Elpv
    from anomalib_crad.data.multi_category import MultiCategory
    from anomalib_crad.data.mvtec import MVTec
    from anomalib_crad.models.components.compiled_head import CompiledHead
    from anomalib_crad.models.components.feature_cache import FeatureCache
    from anomalib_crad.models.crad.lightning_model import Crad
    from anomalib_crad.models.dmad.lightning_model import Dmad
    from anomalib_crad.models.hvq_trans.lightning_model import HVQTrans
    from anomalib_crad.models.uniad.lightning_model import UniAD

__version__ = "0.2.0"

#: Public classes and the modules that define them; the rooms offer their own by this list too.
PUBLIC_CLASSES = {
    "CompiledHead": "anomalib_crad.models.components.compiled_head",
    "Crad": "anomalib_crad.models.crad.lightning_model",
    "Dmad": "anomalib_crad.models.dmad.lightning_model",
    "Elpv": "anomalib_crad.data.elpv",
    "FeatureCache": "anomalib_crad.models.components.feature_cache",
    "HVQTrans": "anomalib_crad.models.hvq_trans.lightning_model",
    "MVTec": "anomalib_crad.data.mvtec",
    "MultiCategory": "anomalib_crad.data.multi_category",
    "UniAD": "anomalib_crad.models.uniad.lightning_model",
}

__all__ = ["CompiledHead", "Crad", "Dmad", "Elpv", "FeatureCache", "HVQTrans", "MVTec", "MultiCategory", "UniAD"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute
    if name not in PUBLIC_CLASSES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(PUBLIC_CLASSES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Last: if anomalib is imported already, this imports classes of this package at once.
plugin.register_on_import()
