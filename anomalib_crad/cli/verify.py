# SPDX-License-Identifier: Apache-2.0

"""The command that tells whether a package works on this device: ``python -m anomalib_crad verify PACKAGE``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console

from anomalib_crad.deploy.verify import verify_package

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str = "python -m anomalib_crad verify") -> int:
    """Look whether a package is whole and computes what it should, and say so.

    Args:
        arguments: The command line's. Defaults to ``None``: those of this process.
        prog: How the user started this, for the help. Defaults to ``"python -m anomalib_crad verify"``.

    Returns:
        Exit code: 0 if it does, 1 if it does not. The process ends with 2 if it is incomplete or cannot be run.
    """
    parser = ArgumentParser(prog=prog, description="Run a package's sample on this device.")
    parser.add_argument("package", type=Path, help="The package.")
    parser.add_argument("--device", default="CPU", help="OpenVINO's device.")
    parsed = parser.parse_args(arguments)
    try:
        verification = verify_package(parsed.package, parsed.device)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    Console(soft_wrap=True).print(str(verification))
    return 0 if verification.agrees else 1


if __name__ == "__main__":
    sys.exit(main())
