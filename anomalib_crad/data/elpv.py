# SPDX-License-Identifier: Apache-2.0

"""Solar cells in electroluminescence images, from the PyPI package ``elpv-dataset``.

2,624 grey images of 300 x 300 pixels of monocrystalline and polycrystalline cells, each with the probability that the
cell is defective. Here 0 is good and 1 is anomalous; cells in between, about which experts were unsure, are left out.
There are no masks, so the task is classification. The package contains the images, so nothing is downloaded at run
time. Licence CC BY-NC-SA 4.0.
S. Deitsch et al., Automatic classification of defective photovoltaic module cells in electroluminescence images,
Solar Energy 185, 2019.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName, Split, TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform

from anomalib_crad.data.multi_category import MultiCategory
from anomalib_crad.data.sources import select_categories

CATEGORIES = ("mono", "poly")

_TEST_SHARE = 0.3
"""Share of the good cells kept for testing: 176 of 588 (mono) and 276 of 920 (poly), beside 313 and 402 anomalous."""


class Elpv(MultiCategory):
    """Solar cells, mono and poly as categories; image labels only.

    Args:
        category (list[str] | str | None): ``"mono"``, ``"poly"``, or a list of both. Defaults to ``None``, both.
        max_train_images (int | None): Largest number of training images (all good) of each category.
            Defaults to ``None``, all: 412 mono and 644 poly.
        max_test_images (int | None): Largest number of test images of each category, half of them good and half
            anomalous. Defaults to ``None``, all: 489 mono and 678 poly.
        train_batch_size (int): Images in a training batch. Defaults to ``32``.
        eval_batch_size (int): Images in a validation or test batch. Defaults to ``32``.
        num_workers (int): Processes that load images. Defaults to ``8``.
        train_augmentations (Transform | None): Augmentations of training images. Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations of validation images. Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations of test images. Defaults to ``None``.
        augmentations (Transform | None): Augmentations where none are given for training, validation or test.
            Defaults to ``None``.
        val_split_mode (ValSplitMode | str): How each category's validation set is made, as in anomalib's datamodules.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Share of each category's images for validation. Defaults to ``0.5``.
        seed (int): Seed of all splits. The images of a smaller cap are among those of a larger one. Defaults to ``0``.

    Raises:
        ImportError: If the package ``elpv-dataset`` is not installed.
        ValueError: If a category is unknown or named twice, or a cap is too small.

    Example:
        >>> datamodule = Elpv(max_train_images=100, max_test_images=100)
        >>> datamodule.setup()
        >>> len(datamodule.train_data), len(datamodule.test_data)
        (200, 200)
    """

    def __init__(
        self,
        category: list[str] | str | None = None,
        max_train_images: int | None = None,
        max_test_images: int | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int = 0,
    ) -> None:
        _check_cap("max_train_images", max_train_images, 1)
        _check_cap("max_test_images", max_test_images, 2)
        root = _package_data()
        datamodules = [
            _ElpvCategory(
                root=root,
                category=name,
                max_train_images=max_train_images,
                max_test_images=max_test_images,
                train_batch_size=train_batch_size,
                eval_batch_size=eval_batch_size,
                num_workers=num_workers,
                val_split_mode=val_split_mode,
                val_split_ratio=val_split_ratio,
                seed=seed,
            )
            for name in select_categories(category, default=CATEGORIES, known=CATEGORIES, where="ELPV")
        ]
        super().__init__(
            datamodules,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
        )
        self._name = type(self).__name__  # all images lie in one folder, so no two pictures have one name


class _ElpvCategory(AnomalibDataModule):
    """One kind of cell; private, since anomalib's command line lists every public datamodule."""

    def __init__(
        self,
        root: Path,
        category: str,
        max_train_images: int | None,
        max_test_images: int | None,
        train_batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        val_split_mode: ValSplitMode | str,
        val_split_ratio: float,
        seed: int,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split_mode=TestSplitMode.FROM_DIR,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = root
        self.category = category
        self.max_train_images = max_train_images
        self.max_test_images = max_test_images
        self.split_seed = seed

    def _setup(self, _stage: str | None = None) -> None:
        cells = _read_labels(self.root)
        cells = cells[cells["type"] == self.category]
        rng = np.random.default_rng(self.split_seed)
        good = rng.permutation(cells.loc[cells["probability"] == 0, "path"])
        anomalous = rng.permutation(cells.loc[cells["probability"] == 1, "path"])
        num_test = round(len(good) * _TEST_SHARE)
        half = None if self.max_test_images is None else self.max_test_images // 2
        test_good, train = good[:num_test][:half], good[num_test:][: self.max_train_images]
        self.train_data = self._dataset(Split.TRAIN, good=train)
        self.test_data = self._dataset(Split.TEST, good=test_good, anomalous=anomalous[:half])

    def _dataset(self, split: Split, good: np.ndarray, anomalous: np.ndarray | tuple[()] = ()) -> AnomalibDataset:
        samples = pd.DataFrame({"image_path": [str(self.root / path) for path in (*good, *anomalous)]})
        samples["split"] = split.value
        samples["label"] = ["good"] * len(good) + ["anomalous"] * len(anomalous)
        samples["label_index"] = [int(LabelName.NORMAL)] * len(good) + [int(LabelName.ABNORMAL)] * len(anomalous)
        samples["mask_path"] = None
        samples.attrs["task"] = TaskType.CLASSIFICATION.value
        dataset = AnomalibDataset()
        dataset.samples = samples
        return dataset


def _check_cap(argument: str, value: int | None, smallest: int) -> None:
    if value is not None and value < smallest:
        msg = f"`{argument}` is {value}; give at least {smallest} for each category, or None for all images."
        raise ValueError(msg)


def _package_data() -> Path:
    """Find the package's folder without importing it."""
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        msg = (
            "The images of `Elpv` come with the package 'elpv-dataset', which is not installed. "
            "Install it with: pip install 'anomalib-crad[quickstart]'"
        )
        raise ImportError(msg)
    return Path(spec.submodule_search_locations[0]) / "data"


def _read_labels(root: Path) -> pd.DataFrame:
    labels = root / "labels.csv"
    if not labels.is_file():
        msg = f"'{labels}' is missing: the installed 'elpv-dataset' is incomplete. Reinstall it."
        raise FileNotFoundError(msg)
    return pd.read_csv(labels, sep=r"\s+", names=["path", "probability", "type"])
