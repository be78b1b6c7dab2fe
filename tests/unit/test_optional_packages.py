# SPDX-License-Identifier: Apache-2.0

"""What is said where a package is missing that only some jobs need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from anomalib_crad.optional_packages import require_packages


def test_a_missing_package_names_the_extra() -> None:
    require_packages("Export", "torch")
    with pytest.raises(
        ModuleNotFoundError,
        match=r"Export to X needs no_such_package, which is not installed: pip install 'anomalib-crad\[openvino\]'",
    ) as error:
        require_packages("Export to X", "torch", "no_such_package")
    assert error.value.name == "no_such_package"


def test_a_package_that_is_switched_off_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match="openvino, which is not installed"):
        require_packages("Export", "openvino", "torch")


def test_a_part_of_a_missing_package_is_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no_such_package\.part, which is not installed"):
        require_packages("Export", "no_such_package.part")


def test_asking_imports_nothing_large() -> None:
    lines = (
        "import sys",
        "from anomalib_crad.optional_packages import require_packages",
        "require_packages('A', 'torch')",
        "print('torch' in sys.modules)",
    )
    answer = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
