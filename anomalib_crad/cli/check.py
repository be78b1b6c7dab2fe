# SPDX-License-Identifier: Apache-2.0

"""Look at a datamodule's images without training: `python -m anomalib_crad.cli.check --data MultiCategory ...`.

Takes any of anomalib's image datamodules, given as for a training, or the configuration of a training.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console

from anomalib_crad.cli.arguments import add_datamodule_arguments
from anomalib_crad.data.category_sets import read_subsets
from anomalib_crad.data.inspection.inspect import inspect_samples
from anomalib_crad.data.multi_category import MultiCategory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib.data import AnomalibDataModule

    from anomalib_crad.data.inspection.report import DataReport


def check_datamodule(datamodule: AnomalibDataModule, *, progress: bool = False) -> DataReport:
    """Look at all images that a datamodule will use: headers of all, bytes of possible duplicates.

    Args:
        datamodule: ``MultiCategory`` or any of anomalib's image datamodules. Nothing is downloaded, and this
            datamodule is set up.
        progress: Show bars on the terminal's error stream. Defaults to ``False``.

    Returns:
        Counts of images, and problems. ``rich.print(report)`` shows them.

    Raises:
        ValueError: If a category cannot be read at all.

    Example:
        >>> from anomalib_crad import MultiCategory
        >>> report = check_datamodule(MultiCategory(base="Folder", base_args={...}))  # doctest: +SKIP
        >>> report.raise_for_errors()  # doctest: +SKIP
    """
    if isinstance(datamodule, MultiCategory):
        datamodules = datamodule.datamodules
    else:
        datamodules = {datamodule.category or datamodule.name: datamodule}
    frames = {subset: data.samples for subset, data in read_subsets(datamodules).items()}
    return inspect_samples(frames, progress=progress)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m anomalib_crad.cli.check") -> int:
    """Check the datamodule that the command line describes, and print what was found.

    Args:
        arguments: The command line's. Defaults to ``None``: those of this process.
        prog: How the user started this, for the help. Defaults to ``"python -m anomalib_crad.cli.check"``.

    Returns:
        Exit code: 1 if there are errors, else 0. The process ends with 2 if there is nothing to look at.
    """
    parser = ArgumentParser(prog=prog, description="Look at all images before training.")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    add_datamodule_arguments(parser, arguments)
    parsed = parser.parse_args(arguments)
    if parsed.data is None:
        parser.error("Give a datamodule with --data, or a configuration with --config.")
    try:
        report = check_datamodule(parser.instantiate_classes(parsed).data, progress=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    Console().print(report)
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
