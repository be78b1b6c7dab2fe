# SPDX-License-Identifier: Apache-2.0

"""Write the files of an export whole or not at all.

Everything is written into a folder inside the one it is meant for, and moved out when it is complete. An export that
breaks, for want of memory or of room on the disk, leaves what was there before; so does one that never begins, since a
folder that cannot be written to is found out first.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from anomalib.deploy import ExportType

STAGING_PREFIX = ".unfinished-export-"


def write_whole(export_root: Path | str, export_type: ExportType, write: Callable[[Path], Path]) -> Path:
    """Call an exporter so that its files appear complete.

    The file that a user opens is moved last, and its predecessor is deleted first: whoever looks meanwhile finds the
    old model, the new one or none, but never the description of one with the weights of the other.

    Args:
        export_root: Folder that was asked for.
        export_type: Format; anomalib puts its files into ``weights/<format>`` of the folder.
        write: Exports into the root that it is given, as anomalib's exporters do, and returns the path of the file that
            a user opens.

    Returns:
        Path of that file in its place.

    Raises:
        OSError: If the folder cannot be made or written to.
    """
    export_root = Path(export_root)
    folder = export_root / "weights" / export_type.value
    try:
        new = [level for level in (folder, *folder.parents) if not level.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=folder)
    except OSError as error:
        msg = (
            f"export_root='{export_root}' cannot be written to ({error.strerror}: {error.filename}). Choose a folder "
            "of yours (command line: --export_root FOLDER)."
        )
        raise type(error)(msg) from error
    with _removed_if_empty(new), staging as name:
        written = write(Path(name))
        path = export_root / written.relative_to(name)
        path.unlink(missing_ok=True)
        others = [other for other in written.parent.iterdir() if other != written]
        for source in [*others, written]:
            source.replace(path.parent / source.name)
    return path


@contextmanager
def _removed_if_empty(folders: Iterable[Path]) -> Generator[None, None, None]:
    """Remove folders, innermost first, where an exception leaves the block and nothing is in them."""
    try:
        yield
    except BaseException:
        for folder in folders:
            with suppress(OSError):  # something is in it, which stays
                folder.rmdir()
        raise
