# SPDX-License-Identifier: Apache-2.0

"""Files of a run's results.

What a test has found is printed and returned before it is written, and a full or read-only disk must not take it along:
a file that cannot be written is logged.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file at full precision; a value that a row lacks is empty.

    Args:
        path: File to write; its folder is made, an existing file is replaced.
        columns: Names of the columns, in order.
        rows: Values by column.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def try_to_write(path: Path, write: Callable[[Path], None], what: str) -> None:
    """Write a file, or log why it could not be written.

    Args:
        path: The file.
        write: Writes it.
        what: What it holds, for the log.
    """
    try:
        write(path)
    except OSError:
        logger.exception("Could not write %s; the printed table holds the same numbers.", path)
    else:
        logger.info("%s: %s", what, path)


def configuration(name: str) -> Path:
    """Return the path of a configuration that comes with this package.

    Configurations are inside an installed package, and beside the package in its source tree.

    Args:
        name: Name of the file, such as ``quickstart.yaml``.
    """
    package = Path(__file__).parent
    candidates = [package / "configs", package.parent / "configs"]
    return next((folder for folder in candidates if folder.is_dir()), candidates[0]) / name
