# SPDX-License-Identifier: Apache-2.0

"""The console script ``anomalib-crad`` and ``python -m anomalib_crad``: our commands, and anomalib's for all others.

``anomalib-crad train ...`` is ``anomalib train ...`` with the plugin loaded, for environments that switch PyTorch's
autoloading off: Python imports this package, and so registers its classes, before it runs this file. Anomalib's own
benchmark is ``anomalib benchmark``.

This file imports the standard library only, so that the help appears at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

#: Our commands, in the order of their use. ``cli/<command>.py`` has a function ``main(arguments, prog)``.
COMMANDS = {
    "quickstart": "Train CRAD on solar cells, test it, export it and compare the two.",
    "check": "Look at all images before training.",
    "benchmark": "Compare models on datasets over seeds, under one protocol.",
    "package": "Make a folder that holds all a device needs.",
    "verify": "Run a package's sample on this device.",
    "stream": "Run a package on a folder of images.",
}


def main() -> int:
    """Run the command of this process's command line, ours or anomalib's.

    Returns:
        Exit code.
    """
    command, *arguments = sys.argv[1:] or ["--help"]
    prog = _prog()
    if command in {"-h", "--help"}:
        sys.stdout.write(_help(prog))
        return 0
    if command in COMMANDS:
        return import_module(f"anomalib_crad.cli.{command}").main(arguments, prog=f"{prog} {command}")

    from anomalib.cli.cli import main as anomalib

    anomalib()
    return 0


def _prog() -> str:
    """Name this program as the user started it."""
    return "python -m anomalib_crad" if Path(sys.argv[0]).name == "__main__.py" else "anomalib-crad"


def _help(prog: str) -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return f"""usage: {prog} COMMAND ...

Models and data of anomalib-crad, from the first look to the device. Commands:

{commands}

'{prog} COMMAND --help' lists the arguments of a command.
Any other command is anomalib's and knows our classes: '{prog} train --model Crad --data MVTec'.
'anomalib --help' lists them.
"""
