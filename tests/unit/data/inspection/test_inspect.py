# SPDX-License-Identifier: Apache-2.0

"""Every kind of problem is found, at its level and with its files; good data have none. Equal files are found."""

from __future__ import annotations

import io
import logging
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from anomalib.data import MVTecAD
from made_up_images import make_category, write_image
from made_up_sets import make_folder, make_mvtecad2, make_realiad, write_mask
from PIL import Image
from rich.console import Console

from anomalib_crad.data import check_datamodule, image_files
from anomalib_crad.data.inspection.inspect import identical_files
from anomalib_crad.data.multi_category import MultiCategory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from anomalib_crad.data.inspection.data_report import DataReport, Problem


def products(root: Path, **arguments: Any) -> MultiCategory:  # noqa: ANN401
    return MultiCategory(base="Folder", base_args={**make_folder(root), "num_workers": 0}, **arguments)


def problem(report: DataReport, words: str) -> Problem:
    """Return the one problem whose message has these words."""
    (found,) = [each for each in report.problems if words in each.message]
    return found


def test_good_data_have_counts_and_no_problems(tmp_path: Path) -> None:
    folders = [make_category(tmp_path, "cap", train=5), make_category(tmp_path, "nut", size=(40, 30), mode="L")]
    datamodule = MultiCategory(
        base="MVTecAD", categories=["cap", "nut"], base_args={"root": folders[0].parent, "num_workers": 0}
    )
    report = check_datamodule(datamodule)
    assert report.problems == ()
    summaries = {(each.category, each.subset): each for each in report.subsets}
    assert set(summaries) == {(category, subset) for category in ("cap", "nut") for subset in ("train", "val", "test")}
    cap, nut = summaries["cap", "train"], summaries["nut", "test"]
    assert (cap.normal, cap.anomalous, cap.masks, cap.sizes, cap.modes) == (5, 0, 0, ((24, 16),), ("RGB",))
    assert (nut.normal, nut.anomalous, nut.masks, nut.sizes, nut.modes) == (2, 2, 2, ((40, 30),), ("L",))


def test_any_of_anomalibs_datamodules_can_be_checked(tmp_path: Path) -> None:
    folder = make_category(tmp_path, "cap")
    report = check_datamodule(MVTecAD(root=folder.parent, category="cap", num_workers=0))
    assert {each.category for each in report.subsets} == {"cap"}


def test_a_test_image_that_was_trained_on_is_a_warning(tmp_path: Path) -> None:
    datamodule = products(tmp_path)
    trained, shown = tmp_path / "cap" / "good" / "capa.png", tmp_path / "cap" / "good_test" / "cape.png"
    shutil.copy(trained, shown)
    found = problem(check_datamodule(datamodule), "are also training images")
    assert (found.level, found.category) == ("warning", "cap")
    assert found.files == (f"'{shown}' = '{trained}'",)


def test_an_anomalous_image_in_training_is_an_error_even_as_a_copy_of_another_category(tmp_path: Path) -> None:
    datamodule = products(tmp_path)
    trained, shown = tmp_path / "pin" / "good" / "copy.png", tmp_path / "nut" / "defective" / "scratch" / "nutg.png"
    shutil.copy(shown, trained)
    found = problem(
        check_datamodule(datamodule),
        "are also training images, of this category or another, and would be learnt as normal",
    )
    assert (found.level, found.category) == ("error", "nut")
    assert found.files == (f"'{shown}' = '{trained}'",)


def test_anomalous_images_in_a_training_folder_are_an_error(tmp_path: Path) -> None:
    folder = make_category(tmp_path, "cap")
    path = write_image(folder / "train" / "scratch" / "007.png")
    (folder / "ground_truth" / "scratch").rename(folder / "masks")  # with masks, anomalib itself refuses to pair them
    shutil.rmtree(folder / "test" / "scratch")
    base_args = {"root": folder.parent, "num_workers": 0}
    datamodule = MultiCategory(base="BTech", categories="cap", base_args=base_args)
    (folder / "train" / "good").rename(folder / "train" / "ok")
    (folder / "test" / "good").rename(folder / "test" / "ok")
    write_mask(folder / "ground_truth" / "scratch" / "007.png")
    found = problem(check_datamodule(datamodule), "anomalous images are in training and would be learnt")
    assert (found.level, found.files) == ("error", (str(path),))


def test_masks_of_another_shape_are_errors_and_of_another_resolution_warnings(tmp_path: Path) -> None:
    datamodule = products(tmp_path)
    masks = tmp_path / "cap" / "masks" / "scratch"
    write_mask(masks / "capg.png", (16, 24))
    write_mask(masks / "caph.png", (12, 8))
    report = check_datamodule(datamodule)
    stretched, scaled = problem(report, "differ in shape"), problem(report, "differ in resolution")
    assert (stretched.level, scaled.level) == ("error", "warning")
    image = tmp_path / "cap" / "defective" / "scratch" / "capg.png"
    assert stretched.files == (f"'{masks / 'capg.png'}' (16 x 24) of '{image}' (24 x 16)",)
    assert scaled.files[0].startswith(f"'{masks / 'caph.png'}' (12 x 8) of ")


def white_on_transparent(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([np.full((*mask.shape, 3), 255, np.uint8), mask * np.uint8(255)]))


def black_on_transparent(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([np.zeros((*mask.shape, 3), np.uint8), mask * np.uint8(255)]))


def dark_palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 4] + [0] * 762)
    return image


def class_numbers(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) + np.uint8(1))


def inverted(mask: np.ndarray) -> Image.Image:
    return Image.fromarray((~mask).astype(np.uint8) * np.uint8(255))


@pytest.mark.parametrize(
    ("save_as", "words"),
    [
        (white_on_transparent, "2 masks mark more than 80% of their image"),
        (black_on_transparent, "2 masks of anomalous images mark no pixel"),
        (dark_palette, "2 masks of anomalous images mark no pixel"),
        (class_numbers, "2 masks mark more than 80% of their image"),
        (inverted, "2 masks mark more than 80% of their image"),
    ],
)
def test_masks_of_annotation_tools_that_anomalib_misreads_are_warnings(
    tmp_path: Path, save_as: Callable[[np.ndarray], Image.Image], words: str
) -> None:
    folder = make_category(tmp_path, "cap")
    for path in (folder / "ground_truth" / "scratch").iterdir():
        save_as(np.asarray(Image.open(path)) > 0).save(path)
    found = problem(check_datamodule(MVTecAD(root=folder.parent, category="cap", num_workers=0)), words)
    assert found.level == "warning"
    assert "save defects white on black" in found.message
    assert str(folder / "ground_truth") in found.files[0]


def test_missing_masks_are_a_warning_only_where_others_are_there(tmp_path: Path) -> None:
    base_args = {**make_realiad(tmp_path), "num_workers": 0, "test_split_mode": "from_dir"}
    path = tmp_path / "realiad_jsons" / "realiad_jsons" / "usb.json"
    path.write_text(path.read_text().replace('"NG/e_mask.png"', '""'))
    datamodule = MultiCategory(base="RealIAD", categories=["audiojack", "usb"], base_args=base_args)
    found = problem(check_datamodule(datamodule), "have no mask")
    assert found.message == "1 of 2 anomalous images have no mask and are left out of pixel metrics"
    assert found.files == (str(tmp_path / "realiad_256" / "usb" / "NG" / "e.jpg"),)
    datamodule.setup()
    has_mask = datamodule.test_data.samples.set_index("image_path")["has_mask"]
    assert has_mask.to_dict().pop(found.files[0]) is False
    assert has_mask.sum() == len(has_mask) - 1


def test_a_category_in_which_every_test_image_is_normal_is_a_warning(tmp_path: Path) -> None:
    found = problem(check_datamodule(products(tmp_path)), "every test image is normal, so AUROC")
    assert (found.level, found.category) == ("warning", "pin")


def test_a_category_in_which_every_test_image_is_anomalous_is_a_warning(tmp_path: Path) -> None:
    base_args = {**make_realiad(tmp_path), "num_workers": 0}
    report = check_datamodule(MultiCategory(base="RealIAD", categories="usb", base_args=base_args))
    assert problem(report, "every test image is anomalous, so AUROC").level == "warning"


def test_a_category_without_test_images_is_a_warning(tmp_path: Path) -> None:
    folders = [make_category(tmp_path, "cap", good=0, bad=0), make_category(tmp_path, "nut")]
    base_args = {"root": folders[0].parent, "num_workers": 0, "test_split_mode": "none"}
    datamodule = MultiCategory(base="MVTecAD", categories=["cap", "nut"], base_args=base_args)
    found = problem(check_datamodule(datamodule), "no test images, so nothing can be measured")
    assert (found.level, found.category) == ("warning", "cap")


def test_unlabelled_test_images_are_counted_and_warned_of(tmp_path: Path) -> None:
    base_args = {**make_mvtecad2(tmp_path), "num_workers": 0, "test_type": "private"}
    report = check_datamodule(MultiCategory(base="MVTecAD2", categories=["can"], base_args=base_args))
    (summary,) = [each for each in report.subsets if each.subset == "test"]
    assert (summary.unlabelled, summary.counts) == (2, "0 + 2 ?")
    assert problem(report, "no test image has a label").level == "warning"


def test_a_category_without_training_images_is_an_error(tmp_path: Path) -> None:
    folders = [make_category(tmp_path, "cap"), make_category(tmp_path, "nut", train=0)]
    datamodule = MultiCategory(
        base="MVTecAD", categories=["cap", "nut"], base_args={"root": folders[0].parent, "num_workers": 0}
    )
    found = problem(check_datamodule(datamodule), "no training images")
    assert (found.level, found.category) == ("error", "nut")


def test_other_channels_in_testing_than_in_training_are_a_warning(tmp_path: Path) -> None:
    datamodule = products(tmp_path)
    path = write_image(tmp_path / "nut" / "good_test" / "nute.png", mode="L")
    found = problem(check_datamodule(datamodule), "have channels (L) that no training image has (RGB)")
    assert (found.level, found.files) == ("warning", (str(path),))


def test_all_unreadable_and_clipped_files_are_listed(tmp_path: Path) -> None:
    datamodule = products(tmp_path)
    broken = [tmp_path / "cap" / "good" / f"cap{name}.png" for name in "ab"]
    for path in broken:
        path.write_bytes(b"")
    deep = tmp_path / "nut" / "good" / "nuta.png"
    Image.fromarray(np.full((16, 24), 40_000, dtype=np.uint16)).save(deep)
    report = check_datamodule(datamodule)
    unreadable = problem(report, "2 files cannot be read")
    assert (unreadable.level, unreadable.category) == ("error", "cap")
    assert [str(path) in line for path, line in zip(broken, unreadable.files, strict=True)] == [True, True]
    clipped = problem(report, "more than 8 bits a channel; anomalib's datasets")
    assert (clipped.level, clipped.files) == ("error", (f"'{deep}' (mode I;16)",))


def test_each_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    read = image_files.read_header

    def count(path: str) -> image_files.ImageHeader:
        opened.append(path)
        return read(path)

    monkeypatch.setattr("anomalib_crad.data.inspection.inspect.read_header", count)
    check_datamodule(products(tmp_path))
    assert len(opened) == len(set(opened)) == len(list(tmp_path.rglob("*.png")))


def test_the_datamodule_checks_when_told_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        products(tmp_path, check=True).setup()
    assert "Category 'pin': every test image is normal" in caplog.text
    shown = capsys.readouterr().out
    assert "2 of 2" in shown
    assert "24 x 16" in shown


def test_the_datamodule_raises_all_errors_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datamodule = products(tmp_path, check=True)
    (tmp_path / "cap" / "good" / "capa.png").write_bytes(b"")
    write_mask(tmp_path / "cap" / "masks" / "scratch" / "capg.png", (16, 24))
    with pytest.raises(ValueError, match=r"(?s)The data have errors:\n.*cannot be read.*\n.*differ in shape"):
        datamodule.setup()
    assert "cap" in capsys.readouterr().out  # the table is shown before


def test_the_datamodule_is_silent_when_not_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    products(tmp_path).setup()
    assert not capsys.readouterr().out


def test_the_report_lists_what_it_found_below_its_table(tmp_path: Path) -> None:
    datamodule = products(tmp_path)
    for name in "bcd":
        shutil.copy(tmp_path / "cap" / "good" / "capa.png", tmp_path / "cap" / "good" / f"cap{name}.png")
    for number in range(8):
        shutil.copy(tmp_path / "cap" / "good" / "capa.png", tmp_path / "cap" / "good_test" / f"[b]{number}.png")
    console = Console(width=400, file=io.StringIO())
    with console.capture() as captured:
        console.print(check_datamodule(datamodule))
    shown = captured.get()
    assert "10 + 2" in shown
    assert (
        "WARNING Category 'cap': 8 test or validation images are also training images, of this category or another: "
        in shown
    )
    assert "[b]0.png" in shown
    assert "and 3 more" in shown
    assert "WARNING Category 'pin'" in shown


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
