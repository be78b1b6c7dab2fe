# SPDX-License-Identifier: Apache-2.0

"""Problems that the images of a category can have, one function for each kind.

An error makes training or results wrong; a warning makes results say less than they seem to. Nothing here reads a file:
``inspect.py`` has read what the functions need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from anomalib.data.utils import LabelName

from anomalib_crad.data.image_files import DEPTH_REMEDY, ImageHeader
from anomalib_crad.data.inspection.data_report import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAIN = "train"
TEST = "test"
_MOST = 0.8
"""Share of an image above which a mask is more likely to be inverted, or to hold class numbers, than right."""
_MASK_READING = (
    "a mask is true wherever its grey value is above 0, and transparency is dropped: save defects white on black"
)
_ALSO_TRAINED = "are also training images, of this category or another"


class Sample(NamedTuple):
    """One image in one subset.

    Attributes:
        path: The image.
        subset: ``"train"``, ``"val"`` or ``"test"``.
        label: One of anomalib's ``LabelName``.
        masks: Paths of its masks.
        has_mask: Whether its pixels are labelled.
    """

    path: str
    subset: str
    label: int
    masks: tuple[str, ...]
    has_mask: bool


@dataclass
class Files:
    """Content of the files of all categories, as far as problems depend on it.

    Attributes:
        headers: Headers of the images and masks that can be read.
        mask_shares: Share of the image that each mask marks as anomalous, in [0, 1].
        broken: Reasons why the others cannot be read.
        copies: Training images by the validation or test image that has the same bytes.
    """

    headers: dict[str, ImageHeader] = field(default_factory=dict)
    mask_shares: dict[str, float] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)


def find_problems(category: str, samples: list[Sample], files: Files) -> list[Problem]:
    """Find all problems of a category.

    Args:
        category: Its name.
        samples: All its images in all subsets.
        files: Content of their files.

    Returns:
        The problems, errors first.
    """
    kinds = (
        _unreadable,
        _too_deep,
        _misaligned_masks,
        _implausible_masks,
        _bad_training,
        _untestable,
        _missing_masks,
        _other_channels,
        _copies_of_training,
    )
    problems = [problem for kind in kinds for problem in kind(category, samples, files)]
    return sorted(problems, key=lambda problem: problem.level)


def _unreadable(category: str, samples: list[Sample], files: Files) -> Iterator[Problem]:
    paths = dict.fromkeys(path for sample in samples for path in (sample.path, *sample.masks))
    broken = tuple(f"'{path}' ({files.broken[path]})" for path in paths if path in files.broken)
    if broken:
        yield Problem("error", category, f"{len(broken)} files cannot be read", broken)


def _too_deep(category: str, samples: list[Sample], files: Files) -> Iterator[Problem]:
    headers = {sample.path: files.headers[sample.path] for sample in samples if sample.path in files.headers}
    deep = tuple(f"'{path}' (mode {header.mode})" for path, header in headers.items() if header.is_clipped_by_rgb)
    if deep:
        yield Problem("error", category, f"{len(deep)} images hold more than 8 bits a channel; {DEPTH_REMEDY}", deep)


def _misaligned_masks(category: str, samples: list[Sample], files: Files) -> Iterator[Problem]:
    stretched: dict[str, None] = {}  # dictionaries as ordered sets: an image may be in validation and testing
    scaled: dict[str, None] = {}
    for sample in samples:
        for mask in sample.masks:
            image_header, mask_header = files.headers.get(sample.path), files.headers.get(mask)
            if image_header and mask_header and image_header.size != mask_header.size:
                sizes = f"'{mask}' ({_pixels(mask_header)}) of '{sample.path}' ({_pixels(image_header)})"
                (scaled if _have_one_shape(image_header, mask_header) else stretched)[sizes] = None
    if stretched:
        message = f"{len(stretched)} masks differ in shape from their image and would be stretched over it"
        yield Problem("error", category, message, tuple(stretched))
    if scaled:
        message = f"{len(scaled)} masks differ in resolution from their image and are scaled to it"
        yield Problem("warning", category, message, tuple(scaled))


def _implausible_masks(category: str, samples: list[Sample], files: Files) -> Iterator[Problem]:
    masks = dict.fromkeys(mask for sample in samples for mask in sample.masks)
    shares = {mask: files.mask_shares[mask] for mask in masks if mask in files.mask_shares}
    empty = tuple(f"'{mask}'" for mask, share in shares.items() if share == 0)
    if empty:
        message = f"{len(empty)} masks of anomalous images mark no pixel; {_MASK_READING}"
        yield Problem("warning", category, message, empty)
    full = tuple(f"'{mask}' ({share:.0%})" for mask, share in shares.items() if share > _MOST)
    if full:
        message = f"{len(full)} masks mark more than {_MOST:.0%} of their image; {_MASK_READING}"
        yield Problem("warning", category, message, full)


def _bad_training(category: str, samples: list[Sample], _files: Files) -> Iterator[Problem]:
    trained = [sample for sample in samples if sample.subset == TRAIN]
    if not trained:
        yield Problem("error", category, "there are no training images")
    anomalous = _paths(sample for sample in trained if sample.label == LabelName.ABNORMAL)
    if anomalous:
        message = f"{len(anomalous)} anomalous images are in training and would be learnt as normal"
        yield Problem("error", category, message, anomalous)


def _untestable(category: str, samples: list[Sample], _files: Files) -> Iterator[Problem]:
    labels = {sample.label for sample in samples if sample.subset == TEST}
    if not labels:
        yield Problem("warning", category, "there are no test images, so nothing can be measured")
    elif labels == {LabelName.UNKNOWN}:
        yield Problem("warning", category, "no test image has a label, so nothing can be measured")
    elif LabelName.ABNORMAL not in labels:
        yield Problem("warning", category, "every test image is normal, so AUROC and the like do not exist for it")
    elif LabelName.NORMAL not in labels:
        yield Problem("warning", category, "every test image is anomalous, so AUROC and the like do not exist for it")


def _missing_masks(category: str, samples: list[Sample], _files: Files) -> Iterator[Problem]:
    shown = [sample for sample in samples if sample.subset != TRAIN]
    anomalous = [sample for sample in shown if sample.label == LabelName.ABNORMAL]
    missing = _paths(sample for sample in anomalous if not sample.has_mask)
    if missing and any(sample.has_mask for sample in shown):
        total = len(_paths(anomalous))
        message = f"{len(missing)} of {total} anomalous images have no mask and are left out of pixel metrics"
        yield Problem("warning", category, message, missing)


def _other_channels(category: str, samples: list[Sample], files: Files) -> Iterator[Problem]:
    modes = {sample.path: files.headers[sample.path].mode for sample in samples if sample.path in files.headers}
    trained = {modes[sample.path] for sample in samples if sample.subset == TRAIN and sample.path in modes}
    other = _paths(sample for sample in samples if sample.path in modes and modes[sample.path] not in trained)
    if other and trained:
        found = ", ".join(sorted({modes[path] for path in other}))
        message = (
            f"{len(other)} images have channels ({found}) that no training image has ({', '.join(sorted(trained))})"
        )
        yield Problem("warning", category, message, other)


def _copies_of_training(category: str, samples: list[Sample], files: Files) -> Iterator[Problem]:
    copies = [sample for sample in samples if sample.subset != TRAIN and sample.path in files.copies]
    for is_anomalous in (True, False):
        paths = _paths(sample for sample in copies if (sample.label == LabelName.ABNORMAL) == is_anomalous)
        pairs = tuple(f"'{path}' = '{files.copies[path]}'" for path in paths)
        if pairs and is_anomalous:
            message = f"{len(pairs)} anomalous images {_ALSO_TRAINED}, and would be learnt as normal"
            yield Problem("error", category, message, pairs)
        elif pairs:
            yield Problem("warning", category, f"{len(pairs)} test or validation images {_ALSO_TRAINED}", pairs)


def _paths(samples: Iterator[Sample] | list[Sample]) -> tuple[str, ...]:
    """Return each path once; an image may be in validation and testing."""
    return tuple(dict.fromkeys(sample.path for sample in samples))


def _have_one_shape(first: ImageHeader, second: ImageHeader) -> bool:
    """Whether two images have the same ratio of width to height, to a pixel."""
    difference = abs(first.size[0] * second.size[1] - first.size[1] * second.size[0])
    return difference <= max(*first.size, *second.size)


def _pixels(header: ImageHeader) -> str:
    width, height = header.size
    return f"{width} x {height}"
