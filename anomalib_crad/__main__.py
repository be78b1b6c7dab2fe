# SPDX-License-Identifier: Apache-2.0

"""``python -m anomalib_crad``, the same as the console script ``anomalib-crad``."""

import sys

from anomalib_crad.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
