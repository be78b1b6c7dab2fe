# SPDX-License-Identifier: Apache-2.0

"""Pictures of a whole run."""

from anomalib_crad.visualization.overview import save_overview

__all__ = ["save_overview"]
