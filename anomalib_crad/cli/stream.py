# SPDX-License-Identifier: Apache-2.0

"""The command that runs a package: ``python -m anomalib_crad stream PACKAGE --images FOLDER --output RESULTS``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.logging import RichHandler

from anomalib_crad.deploy.package import EdgePackage
from anomalib_crad.deploy.run import EdgeModel
from anomalib_crad.deploy.stream_folder import RESULTS, Overlays, stream_folder

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str = "python -m anomalib_crad stream") -> int:
    """Run a package on a folder of images, and say how many were anomalous.

    Args:
        arguments: The command line's. Defaults to ``None``: those of this process.
        prog: How the user started this, for the help. Defaults to ``"python -m anomalib_crad stream"``.

    Returns:
        Exit code: 0, or 1 if no image could be read. The process ends with 2 after an error.
    """
    parser = ArgumentParser(prog=prog, description="Run a package on a folder of images.")
    parser.add_argument("package", type=Path, help="The package.")
    parser.add_argument("--images", type=Path, required=True, help="Folder of images, searched with its folders.")
    parser.add_argument("--output", type=Path, required=True, help=f"Folder for {RESULTS} and overlay pictures.")
    parser.add_argument("--overlays", default="all", choices=get_args(Overlays), help="Which images to draw.")
    parser.add_argument("--category", help="Category of the images, whose own threshold then decides.")
    parser.add_argument("--device", default="CPU", help="OpenVINO's device.")
    parsed = parser.parse_args(arguments)
    progress = Console(stderr=True)
    # On the console of the progress bar, which warnings would otherwise tear apart.
    handler = RichHandler(console=progress, show_time=False, show_path=False)
    warnings = logging.getLogger("anomalib_crad.deploy")
    warnings.addHandler(handler)
    try:
        model = EdgeModel(EdgePackage.open(parsed.package), parsed.device, parsed.category, throughput=True)
        summary = stream_folder(model, parsed.images, parsed.output, parsed.overlays, progress)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    finally:
        warnings.removeHandler(handler)
    Console(soft_wrap=True, highlight=False).print(f"{summary} {parsed.output / RESULTS}")
    return 0 if summary.images else 1


if __name__ == "__main__":
    sys.exit(main())
