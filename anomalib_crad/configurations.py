# SPDX-License-Identifier: Apache-2.0

"""Where the configurations are that come with this package.

They travel with an installed package, and lie beside it in the source tree.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def configuration(name: str) -> Path:
    """Return the path of a configuration.

    Args:
        name: Its name, such as ``quickstart.yaml``.
    """
    candidates = [_HERE / "configs", _HERE.parent / "configs"]
    return next((folder for folder in candidates if folder.is_dir()), candidates[0]) / name
