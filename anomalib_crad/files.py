# SPDX-License-Identifier: Apache-2.0

"""Write files whole or not at all, and tables of results.

Files that belong together are written into a hidden folder next to their place and moved when all of them are complete:
a run that fails, for lack of memory or of room on the disk, leaves what was there before. One folder
(``staged_folder``), some files of a folder (``staged_files``) and one file (``staged_file``) share one mechanism,
``staging_folder``.

Results of a test are printed and returned before they are written, so a full or read-only disk must not lose them:
``try_to_write`` logs a file that cannot be written.
"""

from __future__ import annotations

import csv
import logging
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)


@contextmanager
def staging_folder(
    folder: Path, prefix: str, explain: Callable[[OSError], str] | None = None
) -> Generator[Path, None, None]:
    """Make a hidden folder for files that are not complete yet, and remove it at the end of the block.

    Args:
        folder: Where the files are to be moved; it is made, with the folders above it. If the block fails, those that
            were made and are empty are removed.
        prefix: How the name of the hidden folder begins.
        explain: Returns the message for an error of making the folders. Defaults to ``None``: a message that names
            ``folder``.

    Yields:
        The hidden folder, inside ``folder``, so that moving files out of it is renaming them.

    Raises:
        OSError: If nothing can be written there.
    """
    new = [level for level in (folder, *folder.parents) if not level.exists()]
    with _removed_if_empty(new):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(prefix=prefix, dir=folder)
        except OSError as error:
            msg = f"Cannot write into '{folder}': {error}. Choose another folder, or mend its permissions."
            raise type(error)(msg if explain is None else explain(error)) from error
        with temporary as name:
            yield Path(name)


@contextmanager
def staged_folder(folder: str | Path) -> Generator[Path, None, None]:
    """Give a folder to write into, and put it in its place when the block ends well.

    Args:
        folder: Final path of the folder; the folders above it are made.

    Yields:
        The folder to write into. It is removed if the block fails.

    Raises:
        FileExistsError: If ``folder`` exists already.
        OSError: If nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists():
        msg = f"'{folder}' exists already. Delete it, or choose another folder."
        raise FileExistsError(msg)
    with staging_folder(folder.parent, f".{folder.name}-") as staging:
        # A level below, because other users may not enter temporary folders, and the finished one is for them too.
        whole = staging / folder.name
        whole.mkdir()
        yield whole  # noqa: RUF075 - a block that fails must move nothing
        whole.rename(folder)


@contextmanager
def staged_files(
    folder: Path, main_suffix: str, prefix: str, explain: Callable[[OSError], str] | None = None
) -> Generator[Path, None, None]:
    """Give a folder to write files into, and move them to theirs when the block ends well.

    The main file is moved last, and its predecessor is deleted first: another program sees the old files, the new ones
    or no main file, but never the main file of one version next to the other files of another.

    Args:
        folder: Where the files belong; other files in it stay.
        main_suffix: Ending of the main file, the one that a user opens.
        prefix: How the name of the hidden folder begins.
        explain: As for :func:`staging_folder`.

    Yields:
        The folder to write into; files in folders below it are moved too, without those folders.

    Raises:
        OSError: If nothing can be written there.
    """
    with staging_folder(folder, prefix, explain) as staging:
        yield staging  # noqa: RUF075 - a block that fails must move nothing
        files = [path for path in staging.rglob("*") if path.is_file()]
        for path in files:
            if path.suffix == main_suffix:
                (folder / path.name).unlink(missing_ok=True)
        for path in sorted(files, key=lambda path: path.suffix == main_suffix):
            path.replace(folder / path.name)


@contextmanager
def staged_file(path: str | Path) -> Generator[Path, None, None]:
    """Give a path to write a file to, and put the file in its place when the block ends well.

    Args:
        path: Final path of the file; its folder is made, an existing file is replaced.

    Yields:
        The path to write to. The file is removed if the block fails.

    Raises:
        OSError: If nothing can be written there.
    """
    path = Path(path)
    with staging_folder(path.parent, f".{path.name}-") as staging:
        yield staging / path.name  # noqa: RUF075 - a block that fails must move nothing
        (staging / path.name).replace(path)


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file at full precision; a value that a row lacks is empty.

    Rows are written as they come: a run that breaks off leaves those that it has.

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


@contextmanager
def _removed_if_empty(folders: Iterable[Path]) -> Generator[None, None, None]:
    """Remove those of several folders that are empty, innermost first, if the block fails."""
    try:
        yield
    except BaseException:
        for folder in folders:
            with suppress(OSError):  # it holds something, which stays
                folder.rmdir()
        raise
