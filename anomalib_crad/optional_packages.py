# SPDX-License-Identifier: Apache-2.0

"""Packages that only some jobs need: named before the job begins, with the extra that brings them.

Nothing but the standard library is imported, so that a device that only runs an exported model can ask too.
"""

from __future__ import annotations

from importlib.util import find_spec

EXTRA = "anomalib-crad[openvino]"


def require_packages(purpose: str, *names: str) -> None:
    """See that optional packages are installed.

    Args:
        purpose: What they are needed for.
        *names: Their modules.

    Raises:
        ModuleNotFoundError: If one is missing, naming the extra that brings it.
    """
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        msg = f"{purpose} needs {', '.join(missing)}, which is not installed: pip install '{EXTRA}'."
        raise ModuleNotFoundError(msg, name=missing[0])


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # its parent is missing, or sys.modules says that it is not there
        return False
