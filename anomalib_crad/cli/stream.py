# SPDX-License-Identifier: Apache-2.0

"""``anomalib-crad stream PACKAGE --images FOLDER --output RESULTS``: run a package on a folder of images."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.logging import RichHandler

from anomalib_crad.cli.arguments import errors_of_use

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

#: As in `deploy.stream_folder`, which brings torch; the help does not wait for it.
OVERLAYS = ("all", "anomalous", "none")
RESULTS = "results.csv"


def main(arguments: Sequence[str] | None = None, prog: str = "anomalib-crad stream") -> int:
    """Run a package on a folder of images, and print how many were anomalous.

    Args:
        arguments: The command line's. Defaults to ``None``: those of this process.
        prog: How the user started this, for the help. Defaults to ``"anomalib-crad stream"``.

    Returns:
        Exit code: 0, or 1 if no image could be read. The process ends with 2 after an error.
    """
    parser = ArgumentParser(prog=prog, description="Run a package on a folder of images.")
    parser.add_argument("package", type=Path, help="The package.")
    parser.add_argument("--images", type=Path, required=True, help="Folder of images, searched with its folders.")
    parser.add_argument("--output", type=Path, required=True, help=f"Folder for {RESULTS} and overlay pictures.")
    parser.add_argument("--overlays", default="all", choices=OVERLAYS, help="Which images to draw.")
    parser.add_argument("--category", help="Category of the images, whose own threshold then decides.")
    parser.add_argument("--device", default="CPU", help="OpenVINO's device.")
    parsed = parser.parse_args(arguments)

    from anomalib_crad.deploy import EdgeModel, EdgePackage, stream_folder

    progress = Console(stderr=True)
    with errors_of_use(parser), _warnings_on(progress):
        model = EdgeModel(EdgePackage.open(parsed.package), parsed.device, parsed.category, throughput=True)
        summary = stream_folder(model, parsed.images, parsed.output, parsed.overlays, progress)
    Console(soft_wrap=True, highlight=False).print(f"{summary} {parsed.output / RESULTS}")
    return 0 if summary.images else 1


@contextmanager
def _warnings_on(console: Console) -> Generator[None, None, None]:
    """Print warnings on the console of the progress bar, which they would otherwise tear apart."""
    handler = RichHandler(console=console, show_time=False, show_path=False)
    logger = logging.getLogger("anomalib_crad.deploy")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
