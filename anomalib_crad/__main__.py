# SPDX-License-Identifier: Apache-2.0

"""anomalib's command line with the plugin loaded: ``python -m anomalib_crad train --model Crad ...``.

For environments where PyTorch's autoloading is switched off: Python has imported this package, and so registered its
classes, before it runs this file. Some commands are ours: ``check`` looks at the data before a training, ``benchmark``
compares models, ``package``, ``verify`` and ``stream`` bring a trained model to a device and run it there.
"""

import sys
from importlib import import_module

#: Commands of ours and the modules whose ``main`` they are.
COMMANDS = {
    "benchmark": "anomalib_crad.cli.benchmark",
    "check": "anomalib_crad.cli.check",
    "package": "anomalib_crad.cli.package",
    "stream": "anomalib_crad.cli.stream",
    "verify": "anomalib_crad.cli.verify",
}


def main() -> None:
    """Run a command of ours, or anomalib's command line."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    # anomalib's own benchmark is `anomalib benchmark`.
    if command in COMMANDS:
        sys.exit(import_module(COMMANDS[command]).main(sys.argv[2:], prog=f"python -m anomalib_crad {command}"))

    from anomalib.cli.cli import main as anomalib

    anomalib()


if __name__ == "__main__":
    main()
