# SPDX-License-Identifier: Apache-2.0

"""Inspect all images of a merged set before training.

Works on frames of samples as ``MultiCategory`` merges them. Reads the header of every image and mask once, and all
bytes of images that may be in both training and testing. Decodes masks, but no images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.data.utils import LabelName
from rich.console import Console
from rich.progress import track

from anomalib_crad.data.dataset import mask_paths
from anomalib_crad.data.image_files import READ_ERRORS, read_header, read_mask_share
from anomalib_crad.data.inspection.data_report import DataReport, SubsetSummary
from anomalib_crad.data.inspection.problems import TRAIN, Files, Sample, find_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

Progress = Callable[[list[str]], Iterable[str]]
"""Yields the items of a list, one by one, and may show how many are left."""

_CHUNK = 1 << 20


def inspect_samples(samples_by_subset: Mapping[str, pd.DataFrame], *, progress: bool = False) -> DataReport:
    """Inspect all images of all categories.

    Args:
        samples_by_subset: Frames of samples by subset (``"train"``, ``"val"``, ``"test"``), with the columns of
            ``MultiCategoryDataset``.
        progress: Show bars on the terminal's error stream. Defaults to ``False``.

    Returns:
        Counts and problems.
    """
    categories: dict[str, list[Sample]] = {}
    for subset, frame in samples_by_subset.items():
        for row in frame.to_dict("records"):
            masks = tuple(mask_paths(row["mask_path"]))
            sample = Sample(row["image_path"], subset, int(row["label_index"]), masks, bool(row["has_mask"]))
            categories.setdefault(row["category"], []).append(sample)
    samples = [sample for each in categories.values() for sample in each]
    files = _read(samples, partial(track, console=Console(stderr=True), transient=True, disable=not progress))
    summaries = [
        _summary(name, subset, [sample for sample in each if sample.subset == subset], files)
        for name, each in categories.items()
        for subset in samples_by_subset
    ]
    problems = [problem for name, each in categories.items() for problem in find_problems(name, each, files)]
    return DataReport(tuple(summary for summary in summaries if summary.total), tuple(problems))


def _read(samples: list[Sample], show: Callable[..., Iterable[str]]) -> Files:
    files = Files()
    masks = {mask for sample in samples for mask in sample.masks}
    paths = dict.fromkeys(path for sample in samples for path in (sample.path, *sample.masks))
    for path in show(list(paths), description="Reading headers"):
        _read_one(path, files, is_mask=path in masks)
    readable = [sample for sample in samples if sample.path in files.headers]
    pairs = identical_files(
        [sample.path for sample in readable if sample.subset == TRAIN],
        [sample.path for sample in readable if sample.subset != TRAIN],
        progress=partial(show, description="Comparing files"),
    )
    files.copies = {shown: trained for trained, shown in pairs}
    return files


def _read_one(path: str, files: Files, *, is_mask: bool) -> None:
    try:
        files.headers[path] = read_header(path)
        if is_mask:
            files.mask_shares[path] = read_mask_share(path)
    except READ_ERRORS as error:
        files.broken[path] = str(error) or type(error).__name__


def identical_files(first: Iterable[str], second: Iterable[str], progress: Progress = iter) -> list[tuple[str, str]]:
    """Find pairs of files with the same bytes, one from each set, such as an image in training and in testing.

    Two files of different sizes cannot be equal, so only files whose size occurs in both sets are read: next to none of
    a set of PNG or JPEG images, all of a set of uncompressed ones.

    Args:
        first: Paths of readable files.
        second: Paths of readable files. A path may be in both sets.
        progress: Yields the paths of the files that are read, one by one, and may show how many are left.
            Defaults to ``iter``, which shows nothing.

    Returns:
        Pairs of a path of ``first`` and a path of ``second`` with the same bytes, one pair for each such path of
        ``second``. Where several paths of ``first`` have these bytes, the pair has the first of them in order.
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


def _summary(category: str, subset: str, samples: list[Sample], files: Files) -> SubsetSummary:
    labels = [sample.label for sample in samples]
    headers = [files.headers[sample.path] for sample in samples if sample.path in files.headers]
    return SubsetSummary(
        category=category,
        subset=subset,
        normal=labels.count(LabelName.NORMAL),
        anomalous=labels.count(LabelName.ABNORMAL),
        unlabelled=labels.count(LabelName.UNKNOWN),
        masks=sum(bool(sample.masks) for sample in samples),
        sizes=tuple(sorted({header.size for header in headers})),
        modes=tuple(sorted({header.mode for header in headers})),
    )
