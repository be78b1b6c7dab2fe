# SPDX-License-Identifier: Apache-2.0

"""Inspection of the images before training: what is refused at every set-up, and what a closer look reports.

``check_datamodule``, the look at a whole datamodule, is exported by ``anomalib_crad.data``: it uses ``MultiCategory``,
which itself uses what stands here.
"""

from anomalib_crad.data.inspection.data_report import DataReport, Problem, SubsetSummary
from anomalib_crad.data.inspection.inspect import inspect_samples
from anomalib_crad.data.inspection.refusals import reject_bad_files, reject_half_labelled, reject_untrained

__all__ = [
    "DataReport",
    "Problem",
    "SubsetSummary",
    "inspect_samples",
    "reject_bad_files",
    "reject_half_labelled",
    "reject_untrained",
]
