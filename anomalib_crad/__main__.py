# SPDX-License-Identifier: Apache-2.0

"""anomalib's command line with the plugin loaded: ``python -m anomalib_crad train --model Crad ...``.

For environments where PyTorch's autoloading is switched off: Python has imported this package, and so registered its
classes, before it runs this file. One command is ours: ``check`` looks at the data before a training.
"""

import sys


def main() -> None:
    """Run ``check``, or anomalib's command line."""
    if sys.argv[1:2] == ["check"]:
        from anomalib_crad.data.check import main as check

        sys.exit(check(sys.argv[2:], prog="python -m anomalib_crad check"))

    from anomalib.cli.cli import main as anomalib

    anomalib()


if __name__ == "__main__":
    main()
