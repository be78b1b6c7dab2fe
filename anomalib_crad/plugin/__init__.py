# SPDX-License-Identifier: Apache-2.0

"""Make anomalib see plugins, with anomalib untouched and no import by the user.

anomalib 2.7 does not look for plugins, but it knows every class that is loaded and is an attribute of `anomalib.models`
or `anomalib.data`. PyTorch calls `install` at the end of `import torch`. That installs an import hook which, once
anomalib is imported, publishes the entry points of all distributions there (`publishing.py`). `docs/plugin.md` explains
this to users.

All of this is part of every `import torch` in the environment: it must not raise, it imports the standard library only,
and before anomalib is imported it loads no more than the hook.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anomalib_crad.plugin.import_hook import ImportHook

if TYPE_CHECKING:
    from types import ModuleType

AUTOLOAD_VARIABLE = "ANOMALIB_CRAD_AUTOLOAD"


def install() -> None:
    """Register the plugins, unless the user has switched that off. PyTorch calls this; it never raises.

    The environment variable `ANOMALIB_CRAD_AUTOLOAD=0` switches it off. An explicit `import anomalib_crad` registers
    the plugins nevertheless.
    """
    if _is_switched_off():
        _forget_own_import()
    else:
        register()


def register() -> None:
    """Publish all plugins in anomalib, now or as soon as it is imported. Any further call changes nothing.

    It never raises: an error of a plugin becomes a `RuntimeWarning`.
    """
    try:
        _hook.install()
    except Exception:  # noqa: BLE001 - `import torch` would fail
        _log_failure()


def register_on_import() -> None:
    """Register on the import of this package, unless PyTorch imports it while autoloading is switched off."""
    if not (_is_switched_off() and _is_torch_half_imported()):
        register()


def _is_switched_off() -> bool:
    return os.environ.get(AUTOLOAD_VARIABLE, "1").strip().lower() in {"0", "false", "no", "off"}


def _is_torch_half_imported() -> bool:
    from anomalib_crad.plugin.import_state import is_half_imported

    torch = sys.modules.get("torch")
    return torch is not None and is_half_imported(torch)


def _forget_own_import() -> None:
    """Drop this package from `sys.modules` if only PyTorch's call imported it.

    Otherwise a later `import anomalib_crad` would run nothing and so register nothing.
    """
    if _hook.installed:
        return
    package = __name__.partition(".")[0]
    for name in tuple(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]


def _publish_entry_points(target: ModuleType) -> None:
    try:
        from anomalib_crad.plugin.publishing import publish_entry_points

        publish_entry_points(target)
    except Exception:  # noqa: BLE001 - the user's import of anomalib would fail
        _log_failure()


def _log_failure() -> None:
    import logging

    logging.getLogger(__name__).exception("The plugins of anomalib are not available.")


# Both names are modules of anomalib and, by the convention of this package, groups of entry points.
_hook = ImportHook(("anomalib.data", "anomalib.models"), _publish_entry_points)
