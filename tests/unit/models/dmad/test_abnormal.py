# SPDX-License-Identifier: Apache-2.0

"""What abnormal banks are made of, with and without annotations, and within a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from anomalib_crad.models.dmad.abnormal import (
    MarkedPatches,
    entries_with_annotations,
    entries_without_annotations,
    pseudo_anomalies,
    synthetic_defects,
    texture_files,
)

if TYPE_CHECKING:
    from pathlib import Path


def marked(*counts: int, dim: int = 4) -> MarkedPatches:
    torch.manual_seed(0)
    return MarkedPatches([torch.randn(count, dim) for count in counts])


def test_the_patches_under_a_mask_are_kept_image_by_image() -> None:
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :8, :8] = True
    masks[2, 8:, :] = True
    patches = torch.arange(12.0).reshape(3, 4, 1)
    kept = MarkedPatches()
    kept.add(patches, masks, (2, 2))
    values, images = kept.flatten()
    assert kept.total == 3
    assert values.flatten().tolist() == [0, 10, 11]
    assert images.tolist() == [0, 2, 2]


def test_annotated_patches_are_followed_by_as_many_pseudo_anomalies_and_by_textures() -> None:
    annotated, textures = marked(20, 10), torch.rand(6, 4)
    made = entries_with_annotations(annotated, textures)
    patches, images = annotated.flatten()
    assert made.parts == {"annotated": 30, "pseudo": 30, "textures": 6}
    assert torch.equal(made.entries[:30], patches)
    torch.testing.assert_close(made.entries[30:60], patches.mean(dim=0).expand(30, 4), atol=0.1, rtol=0)
    assert torch.equal(made.entries[60:], textures)
    assert made.images.tolist() == images.tolist() + [-1] * 36


def test_without_textures_there_is_no_such_part() -> None:
    assert entries_with_annotations(marked(3)).parts == {"annotated": 3, "pseudo": 3}


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        (40, {"annotated": 20, "pseudo": 20}),
        (63, {"annotated": 30, "pseudo": 30, "textures": 3}),
        (1, {"annotated": 1}),
        (500, {"annotated": 30, "pseudo": 30, "textures": 6}),
    ],
)
def test_a_limit_leaves_half_of_the_room_to_annotated_patches(limit: int, parts: dict[str, int]) -> None:
    made = entries_with_annotations(marked(20, 10), torch.rand(6, 4), limit)
    assert made.parts == parts
    assert len(made.entries) == len(made.images) == sum(parts.values())


def test_without_annotations_a_tenth_of_the_synthetic_patches_is_taken() -> None:
    synthetic = marked(60, 0, 40)
    made = entries_without_annotations(torch.rand(9, 4), synthetic, torch.rand(5, 4))
    assert made.parts == {"synthetic": 10, "textures": 5}
    patches, images = synthetic.flatten()
    for entry, image in zip(made.entries[:10], made.images[:10], strict=True):
        assert image == images[(patches == entry).all(dim=1)]
    assert (made.images[10:] == -1).all()


@pytest.mark.parametrize("synthetic", [None, MarkedPatches(), marked(0, 0)])
def test_with_nothing_else_pseudo_anomalies_surround_the_mean_of_the_normal_bank(
    synthetic: MarkedPatches | None,
) -> None:
    normal = torch.randn(50, 4)
    made = entries_without_annotations(normal, synthetic)
    assert made.parts == {"pseudo": 1024}
    torch.testing.assert_close(made.entries.mean(dim=0), normal.mean(dim=0), atol=0.01, rtol=0)
    assert made.entries.std(dim=0).mean().item() == pytest.approx(0.015, rel=0.1)
    assert (made.images == -1).all()


def test_textures_alone_are_enough() -> None:
    assert entries_without_annotations(torch.rand(9, 4), None, torch.rand(5, 4)).parts == {"textures": 5}


@pytest.mark.parametrize(
    ("synthetic", "textures", "parts"),
    [
        (marked(200), None, {"synthetic": 7}),
        (marked(200), torch.rand(50, 4), {"synthetic": 3, "textures": 4}),
        (None, torch.rand(50, 4), {"textures": 7}),
        (None, None, {"pseudo": 7}),
    ],
)
def test_a_limit_holds_without_annotations_too(
    synthetic: MarkedPatches | None, textures: torch.Tensor | None, parts: dict[str, int]
) -> None:
    assert entries_without_annotations(torch.rand(9, 4), synthetic, textures, max_entries=7).parts == parts


def test_pseudo_anomalies_have_the_spread_that_is_asked_for() -> None:
    assert pseudo_anomalies(torch.rand(9, 4), 2000, std=0.5).std().item() == pytest.approx(0.5, rel=0.1)


def test_synthetic_defects_change_what_their_mask_says() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32)
    defective, masks = synthetic_defects(images)
    assert defective.shape == images.shape
    assert masks.shape == (3, 32, 32)
    assert masks.flatten(1).any(dim=1).all()
    assert torch.equal(
        defective.where(~masks[:, None], torch.zeros(())), images.where(~masks[:, None], torch.zeros(()))
    )


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_one_picture_of_each_class_of_textures_is_chosen(tmp_path: Path) -> None:
    for name in ("banded", "dotted"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png")
    (tmp_path / "notes").mkdir()
    chosen = [texture_files(tmp_path) for _ in range(20)]
    assert {tuple(path.parent.name for path in paths) for paths in chosen} == {("banded", "dotted")}
    assert len({tuple(paths) for paths in chosen}) > 1


def test_all_pictures_of_a_flat_folder_are_textures(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{number}.png") for number in range(3)]
    (tmp_path / "notes.txt").touch()
    assert texture_files(tmp_path) == paths


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no pictures"):
        texture_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        texture_files(tmp_path / "missing")
