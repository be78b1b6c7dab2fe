# SPDX-License-Identifier: Apache-2.0

"""Our datamodules inside anomalib: Engine, get_datamodule, and the command line's parser.

The model is anomalib's own and tiny: what is tested is that pictures of different categories do not overwrite each
other and that every way in which anomalib makes a datamodule makes ours.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import anomalib.data
import numpy as np
import pytest
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, get_datamodule
from anomalib.engine import Engine
from anomalib.models import Padim
from jsonargparse import ArgumentParser, Namespace
from omegaconf import OmegaConf
from PIL import Image

from anomalib_crad.data.elpv import Elpv
from anomalib_crad.data.multi_category import MultiCategory
from anomalib_crad.data.mvtec import MVTec

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two products with the same file names, in MVTec AD's layout."""
    rng = np.random.default_rng(0)
    root = tmp_path / "products"
    for category in ("cap", "nut"):
        for folder, count in (("train/good", 6), ("test/good", 3), ("test/hole", 3), ("ground_truth/hole", 3)):
            (root / category / folder).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(root / category / folder / f"{index:03}.png")
    return root


def tiny_run(datamodule: AnomalibDataModule, tmp_path: Path) -> tuple[Padim, Engine]:
    """Train and test a small PaDiM."""
    pre_processor = Padim.configure_pre_processor(image_size=(64, 64))
    model = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=8, pre_processor=pre_processor)
    engine = Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)
    engine.train(model, datamodule=datamodule)
    return model, engine


def pictures_of(datamodule: AnomalibDataModule, tmp_path: Path) -> list[Path]:
    """Train and test a small PaDiM; return the saved pictures."""
    tiny_run(datamodule, tmp_path)
    return sorted((tmp_path / "results").glob("**/images/**/*.png"))


def test_pictures_of_categories_do_not_overwrite_each_other(root: Path, tmp_path: Path) -> None:
    datamodule = MVTec(root=root, category=["cap", "nut"], num_workers=0)
    pictures = pictures_of(datamodule, tmp_path)
    assert len(pictures) == 2 * 6
    assert {picture.parts[-4] for picture in pictures} == {"cap", "nut"}
    assert "Padim/products" in str(pictures[0])


def test_one_category_has_a_results_folder_of_its_own(root: Path, tmp_path: Path) -> None:
    pictures = pictures_of(MVTec(root=root, category="cap", num_workers=1), tmp_path)
    assert len(pictures) == 6
    assert "Padim/products/cap" in str(pictures[0])


def test_solar_cells_run_without_masks(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")
    pictures = pictures_of(Elpv(max_train_images=6, max_test_images=4, num_workers=0), tmp_path)
    assert len(pictures) == 2 * 4
    assert "Padim/Elpv" in str(pictures[0])


def test_pixel_metrics_of_a_mixed_set_are_those_of_the_categories_with_masks(root: Path, tmp_path: Path) -> None:
    with_masks = MVTecAD(root=root, category="cap", num_workers=0)
    without = Folder(
        name="nut",
        root=root / "nut",
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/hole",
        val_split_mode="same_as_test",
        num_workers=0,
    )
    mixed = MultiCategory([with_masks, without], eval_batch_size=4)
    model, engine = tiny_run(mixed, tmp_path)
    pixels = engine.trainer.callback_metrics["pixel_AUROC"]
    mixed.test_data.samples = mixed.test_data.samples.query("category == 'cap'")
    alone = engine.test(model, dataloaders=mixed.test_dataloader())[0]
    assert float(pixels) == pytest.approx(alone["pixel_AUROC"])


@pytest.mark.parametrize("as_omegaconf", [False, True])
def test_get_datamodule(monkeypatch: pytest.MonkeyPatch, root: Path, as_omegaconf: bool) -> None:
    monkeypatch.setattr(anomalib.data, "MVTec", MVTec, raising=False)
    config: Any = {"class_path": "MVTec", "init_args": {"root": str(root), "category": ["cap", "nut"]}}
    datamodule = get_datamodule(OmegaConf.create(config) if as_omegaconf else copy.deepcopy(config))
    datamodule.setup()
    assert isinstance(datamodule, MVTec)
    assert datamodule.categories == ("cap", "nut")


def parse(*arguments: str) -> tuple[ArgumentParser, Namespace]:
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    return parser, parser.parse_args(list(arguments))


@pytest.mark.parametrize("name", ["MVTec", "anomalib_crad.data.mvtec.MVTec"])
@pytest.mark.parametrize(
    ("category", "expected"), [("[cap,nut]", ("cap", "nut")), ('["cap"]', ("cap",)), ("nut", ("nut",))]
)
def test_command_line_and_its_saved_config(
    root: Path, tmp_path: Path, name: str, category: str, expected: tuple[str, ...]
) -> None:
    parser, config = parse("--data", name, "--data.root", str(root), "--data.category", category)
    (tmp_path / "config.yaml").write_text(parser.dump(config), encoding="utf-8")
    for each in (config, parse("--config", str(tmp_path / "config.yaml"))[1]):
        datamodule = parser.instantiate_classes(each).data
        assert isinstance(datamodule, MVTec)
        assert datamodule.categories == expected


def test_command_line_of_elpv() -> None:
    pytest.importorskip("elpv_dataset")
    parser, config = parse("--data", "Elpv", "--data.category", "[poly]", "--data.max_train_images", "10")
    datamodule = parser.instantiate_classes(config).data
    assert isinstance(datamodule, Elpv)
    assert datamodule.categories == ("poly",)


def test_merged_datamodules_from_yaml(root: Path, tmp_path: Path) -> None:
    each = [
        {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(root), "category": category}}
        for category in ("cap", "nut")
    ]
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml({"data": {"class_path": "MultiCategory", "init_args": {"datamodules": each}}}))
    parser, config = parse("--config", str(path))
    datamodule = parser.instantiate_classes(config).data
    assert isinstance(datamodule, MultiCategory)
    assert datamodule.categories == ("cap", "nut")


@pytest.mark.parametrize("name", ["MVTec", "Elpv", "MultiCategory"])
def test_help_explains_every_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(f"--data.help={name}")
    shown = capsys.readouterr().out
    assert "Images in a training batch" in shown
    assert "--data._" not in shown
    assert all("  " in line for line in shown.splitlines() if line.strip().startswith("--data.train"))
