# SPDX-License-Identifier: Apache-2.0

"""A folder that is written whole or not at all.

Files are written into a folder of another name beside it, which is renamed as the last step. A run that breaks off
leaves nothing under the name that somebody else waits for.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def written_whole(folder: str | Path) -> Generator[Path, None, None]:
    """Give a folder to write into, and rename it when everything is written.

    Args:
        folder: What it is called in the end; the folders above it are made.

    Yields:
        The folder to write into. It is gone if an exception leaves the block.

    Raises:
        FileExistsError: If there is something of that name already.
        OSError: If nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists():
        msg = f"'{folder}' exists already. Delete it, or choose another folder."
        raise FileExistsError(msg)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    except OSError as error:
        msg = f"Cannot write into '{folder.parent}': {error}. Choose another folder, or mend its permissions."
        raise OSError(msg) from error
    # A level below, since temporary folders are closed to other users, and the finished one shall not be.
    whole = Path(temporary.name) / folder.name
    whole.mkdir()
    try:
        yield whole
        whole.rename(folder)
    finally:
        temporary.cleanup()
