# SPDX-License-Identifier: Apache-2.0

"""``python -m anomalib_crad.quickstart``, which the README names; the same as ``anomalib-crad quickstart``."""

from anomalib_crad.cli.quickstart import main

if __name__ == "__main__":
    main()
