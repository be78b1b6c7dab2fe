# SPDX-License-Identifier: Apache-2.0

"""Files with the same bytes are found, and no other file is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anomalib_crad.data.inspection.duplicates import identical_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    contents = {"a": b"same", "b": b"same", "c": b"else", "d": b"longer", "e": b"same", "f": b"longer than all"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in contents}


def test_pairs_with_the_same_bytes(files: dict[str, str]) -> None:
    first, second = [files[name] for name in "bad"], [files[name] for name in "fce"]
    assert identical_files(first, second) == [(files["a"], files["e"])]


def test_a_file_in_both_sets_is_its_own_equal(files: dict[str, str]) -> None:
    assert identical_files([files["d"]], [files["d"], files["a"]]) == [(files["d"], files["d"])]


def test_only_files_whose_size_is_in_both_sets_are_read(files: dict[str, str]) -> None:
    read: list[str] = []

    def progress(paths: list[str]) -> Iterable[str]:
        read.extend(paths)
        return paths

    identical_files([files["a"], files["d"]], [files["c"], files["f"]], progress=progress)
    assert read == [files["a"], files["c"]]


def test_large_files_are_compared_to_their_end(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    for path, last in zip(paths, (0, 1), strict=True):
        (tmp_path / path).write_bytes(bytes(3 << 20) + bytes([last]))
    assert identical_files(paths[:1], paths[1:]) == []


def test_no_files_are_no_pairs() -> None:
    assert identical_files([], []) == []
