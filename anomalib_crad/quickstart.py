# SPDX-License-Identifier: Apache-2.0

"""``python -m anomalib_crad.quickstart``, an alias of ``anomalib-crad quickstart``."""

import sys

from anomalib_crad.cli.quickstart import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m anomalib_crad.quickstart"))
