# SPDX-License-Identifier: Apache-2.0

"""Does a package compute on this device what it computed where it was made?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_crad.deploy.package import EdgePackage
from anomalib_crad.deploy.run import EdgeModel

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_crad.deploy.package import ExpectedSample
    from anomalib_crad.prediction import Prediction


@dataclass(frozen=True)
class Verification:
    """What the model says of the sample, and what it must say.

    Attributes:
        expected: What it said where the package was made.
        found: What it says here.
    """

    expected: ExpectedSample
    found: Prediction

    @property
    def agrees(self) -> bool:
        """Whether score and label are as expected; a score that is not a number is not.

        The label of a sample so close to the threshold that the tolerance spans it may change sides.
        """
        expected, found = self.expected, self.found
        same_label = found.label == expected.label or abs(expected.score - expected.limit) <= expected.tolerance
        return abs(found.score - expected.score) <= expected.tolerance and same_label

    def __str__(self) -> str:
        """One sentence for a person."""
        return (
            f"The sample's score is {self.found.score:.6f} ({_word(self.found.label)}), expected is "
            f"{self.expected.score:.6f} ({_word(self.expected.label)}) up to {self.expected.tolerance:g}: "
            f"{'it agrees' if self.agrees else 'it does NOT agree'}."
        )


def verify_package(folder: str | Path, device: str = "CPU") -> Verification:
    """Look whether a package is complete and unaltered, and run its sample.

    Args:
        folder: The package.
        device: OpenVINO's device. Defaults to ``"CPU"``.

    Returns:
        Expected and found.

    Raises:
        FileNotFoundError: If the folder is no package, or is incomplete.
        ModuleNotFoundError: If OpenVINO is not installed.
        ValueError: If a file was altered.
    """
    package = EdgePackage.open(folder)
    expected = package.sample
    return Verification(expected, EdgeModel(package, device).predict(expected.path))


def _word(label: bool) -> str:
    return "anomalous" if label else "normal"
