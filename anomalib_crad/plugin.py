# SPDX-License-Identifier: Apache-2.0

"""Make anomalib see this package."""


def install() -> None:
    """Install the import hook."""
