# SPDX-License-Identifier: Apache-2.0

"""Stand-ins for torch and anomalib that import each other in the order of the real ones, in 50 ms instead of 7 s.

What matters is kept: torch loads its backends at its end, `anomalib.models` imports torch through its first line and
`anomalib.data` through a sub-package, and so both are half imported when the plugin is called. A third-party plugin
`acme` comes with them. The few orders that need the real packages are in `tests/integration/test_plugin_install.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

REPOSITORY = Path(__file__).parents[2]

_HOST = {
    "torch/__init__.py": """
        import os
        from importlib.metadata import entry_points

        if os.getenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1":
            for backend in entry_points(group="torch.backends"):
                backend.load()()
        """,
    "lightning/__init__.py": "import torch",
    "anomalib/__init__.py": "",
    "anomalib/data/__init__.py": """
        from anomalib.data import dataclasses

        class AnomalibDataModule: ...
        class MVTecAD(AnomalibDataModule): ...

        __all__ = ["AnomalibDataModule", "MVTecAD"]
        """,
    "anomalib/data/dataclasses/__init__.py": "from anomalib.data.dataclasses import generic",
    "anomalib/data/dataclasses/generic.py": "import torch",
    "anomalib/models/__init__.py": """
        from anomalib.models import _legacy_compat
        from anomalib.models.components import AnomalibModule
        from anomalib.models.image import Padim

        ALLOWED_MODULES = {"anomalib.models"}
        __all__ = ["AnomalibModule", "Padim"]

        def list_models():
            return sorted(model.__name__ for model in AnomalibModule.__subclasses__())
        """,
    "anomalib/models/_legacy_compat.py": "import torch",
    "anomalib/models/components/__init__.py": """
        from anomalib.data import AnomalibDataModule

        class AnomalibModule: ...
        """,
    "anomalib/models/image/__init__.py": """
        from anomalib.models.components import AnomalibModule

        class Padim(AnomalibModule): ...
        """,
    "anomalib/engine/__init__.py": """
        from anomalib.engine import accelerator
        from anomalib.models import AnomalibModule
        """,
    "anomalib/engine/accelerator.py": "import torch",
    "anomalib/cli.py": """
        from anomalib.data import AnomalibDataModule
        from anomalib.engine import AnomalibModule
        """,
    # The careless layout: the root imports everything, the data module imports from both of anomalib's.
    "acme/__init__.py": """
        from acme.data import AcmeData
        from acme.model import AcmeNet
        """,
    "acme/model.py": """
        from anomalib.models import AnomalibModule

        class AcmeNet(AnomalibModule): ...
        """,
    "acme/data.py": """
        from anomalib.data import AnomalibDataModule
        from anomalib.models import AnomalibModule

        class AcmeData(AnomalibDataModule): ...
        """,
}
_ENTRY_POINTS = {
    "anomalib_crad": {"torch.backends": {"anomalib_crad": "anomalib_crad.plugin:install"}},
    "acme": {
        "anomalib.models": {"AcmeNet": "acme.model:AcmeNet"},
        "anomalib.data": {"AcmeData": "acme.data:AcmeData"},
    },
}


def write_modules(root: Path, files: Mapping[str, str]) -> None:
    """Write Python files, given by their path below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


def write_distribution(root: Path, name: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    """Write what an installed distribution says of its entry points: group -> name -> object reference."""
    folder = root / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def write_host(root: Path) -> None:
    """Write the stand-ins, the plugin `acme`, and the entry point by which torch calls this package."""
    write_modules(root, _HOST)
    for name, groups in _ENTRY_POINTS.items():
        write_distribution(root, name, groups)


def run_python(root: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that has the standard library, a folder and this repository, and nothing else."""
    path = os.pathsep.join([str(root), str(REPOSITORY)])
    clean = {key: value for key, value in os.environ.items() if "AUTOLOAD" not in key and key != "PYTHONWARNINGS"}
    return subprocess.run(
        [sys.executable, "-S", "-c", dedent(code)],
        env={**clean, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
