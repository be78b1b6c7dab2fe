# SPDX-License-Identifier: Apache-2.0

"""Inspect the images of a whole datamodule.

A file of its own, since ``MultiCategory`` uses the rest of this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_crad.data.inspection.inspect import inspect_samples
from anomalib_crad.data.merging import read_subsets
from anomalib_crad.data.multi_category import datamodules_by_category

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

    from anomalib_crad.data.inspection.data_report import DataReport


def check_datamodule(datamodule: AnomalibDataModule, *, progress: bool = False) -> DataReport:
    """Inspect all images that a datamodule will use: the headers of all, the bytes of possible duplicates.

    Args:
        datamodule: ``MultiCategory`` or any of anomalib's image datamodules. This sets it up, and downloads nothing.
        progress: Show bars on the terminal's error stream. Defaults to ``False``.

    Returns:
        Counts of images, and problems. ``rich.print(report)`` shows them.

    Raises:
        ValueError: If a category cannot be read at all.

    Example:
        >>> from anomalib_crad import MultiCategory
        >>> report = check_datamodule(MultiCategory(base="Folder", base_args={...}))  # doctest: +SKIP
        >>> report.raise_for_errors()  # doctest: +SKIP
    """
    samples_by_subset = {
        subset: data.samples for subset, data in read_subsets(datamodules_by_category(datamodule)).items()
    }
    return inspect_samples(samples_by_subset, progress=progress)
