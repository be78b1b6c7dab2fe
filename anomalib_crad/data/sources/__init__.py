# SPDX-License-Identifier: Apache-2.0

"""From the arguments of a datamodule of many categories to datamodules of one category each."""

from anomalib_crad.data.sources.arguments import agreed, given_datamodules
from anomalib_crad.data.sources.categories import ALL, category_datamodules, select_categories
from anomalib_crad.data.sources.datamodule_classes import find_datamodule_class

__all__ = [
    "ALL",
    "agreed",
    "category_datamodules",
    "find_datamodule_class",
    "given_datamodules",
    "select_categories",
]
