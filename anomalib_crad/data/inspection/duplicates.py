# SPDX-License-Identifier: Apache-2.0

"""Find files with the same bytes in two sets, such as an image that is in training and in testing.

Two files of different sizes cannot be equal, so only those are read whose size occurs in both sets: next to none of a
set of PNG or JPEG images, all of a set of uncompressed ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

_CHUNK = 1 << 20

Progress = Callable[[list[str]], Iterable[str]]
"""Passes the items of a list on, one by one, and may show how far it has come."""


def identical_files(first: Iterable[str], second: Iterable[str], progress: Progress = iter) -> list[tuple[str, str]]:
    """Find pairs of files with the same bytes, one from each set.

    Args:
        first: Paths of files that can be read.
        second: Paths of files that can be read. One may be in both sets.
        progress: Passes on the paths of the files that are read. Defaults to ``iter``: silently.

    Returns:
        For each path of ``second`` that has an equal in ``first``: that equal (the first in order, where there are
        several), and the path.
    """
    first, second = sorted(set(first)), sorted(set(second))
    sizes = {path: Path(path).stat().st_size for path in {*first, *second}}
    shared = {sizes[path] for path in first} & {sizes[path] for path in second}
    digests = {path: _digest(path) for path in progress(sorted(path for path in sizes if sizes[path] in shared))}
    owners: dict[bytes, str] = {}
    for path in first:
        if path in digests:
            owners.setdefault(digests[path], path)
    return [(owners[digests[path]], path) for path in second if digests.get(path) in owners]


def _digest(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()
