# SPDX-License-Identifier: Apache-2.0

"""The description of a machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anomalib_crad.provenance import describe_machine, describe_versions

if TYPE_CHECKING:
    import pytest


def test_what_a_system_does_not_say_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "sysconf")
    described = describe_machine()
    assert described["memory_bytes"] is None
    assert described["cores"] == os.cpu_count()


def test_a_machine_is_described_with_its_versions_in_a_fixed_order() -> None:
    """Results that were written before have the same keys."""
    hardware = ["processor", "cores", "memory_bytes", "accelerator", "system"]
    packages = ["python", "anomalib_crad", "anomalib", "torch", "timm", "lightning", "openvino"]
    assert list(describe_machine()) == [*hardware, *packages]


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert describe_versions(["no-such-package"])["no-such-package"] is None
