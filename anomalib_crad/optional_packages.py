# SPDX-License-Identifier: Apache-2.0

"""Check for optional packages before a job that needs them begins, and name the extra that installs them.

This module imports the standard library only, so the check itself costs nothing.
"""

from __future__ import annotations

from importlib.util import find_spec

#: What installs the optional packages.
EXTRA = "anomalib-crad[openvino]"


def require_packages(purpose: str, *names: str) -> None:
    """Check that optional packages are installed.

    Args:
        purpose: What needs them, as the first words of the error message.
        *names: Names of their modules.

    Raises:
        ModuleNotFoundError: If one is missing, naming the extra that installs it.
    """
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        msg = f"{purpose} needs {', '.join(missing)}, which is not installed: pip install '{EXTRA}'."
        raise ModuleNotFoundError(msg, name=missing[0])


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # its parent is missing, or sys.modules maps it to None
        return False
