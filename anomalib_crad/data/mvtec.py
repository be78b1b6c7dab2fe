# SPDX-License-Identifier: Apache-2.0

"""MVTec AD as unified models use it: all 15 categories in one datamodule.

Merges one ``MVTecAD`` of anomalib for each category. Any folder in MVTec AD's layout (``<category>/train/good``,
``test/<good or defect>``, ``ground_truth/<defect>``, PNG) can be a category.

MVTec AD is licensed CC BY-NC-SA 4.0: P. Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129(4), 2021.
"""

import lzma
import tarfile
from contextlib import suppress
from pathlib import Path

from anomalib.data import MVTecAD
from anomalib.data.datasets.image.mvtecad import CATEGORIES
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from torchvision.transforms.v2 import Transform

from anomalib_crad.data.multi_category import MultiCategory
from anomalib_crad.data.sources import select_categories

_WEBSITE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"


class MVTec(MultiCategory):
    """MVTec AD, all categories or some of them in one datamodule.

    Args:
        root (Path | str | None): Folder that holds the categories' folders. anomalib downloads the data set there if
            there are none. Defaults to ``"./datasets/MVTecAD"``; ``None`` is anomalib's cache folder.
        category (list[str] | str | None): One category, or a list of them. Besides the 15 of MVTec AD, any folder of
            ``root`` in the same layout. Defaults to ``None``, all 15.
        train_batch_size (int): Images in a training batch. Defaults to ``32``.
        eval_batch_size (int): Images in a validation or test batch. Defaults to ``32``.
        num_workers (int): Processes that load images. Defaults to ``8``.
        train_augmentations (Transform | None): Augmentations of training images. Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations of validation images. Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations of test images. Defaults to ``None``.
        augmentations (Transform | None): Augmentations where none are given for training, validation or test.
            Defaults to ``None``.
        test_split_mode (TestSplitMode | str): How each category's test set is made, as in anomalib's ``MVTecAD``.
            Defaults to ``TestSplitMode.FROM_DIR``.
        test_split_ratio (float): Share of each category's images for testing where they are taken from training.
            Defaults to ``0.2``.
        val_split_mode (ValSplitMode | str): How each category's validation set is made, as in anomalib's ``MVTecAD``.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Share of each category's images for validation. Defaults to ``0.5``.
        seed (int | None): Seed of the splits. Defaults to ``None``.

    Raises:
        ValueError: If a category is unknown or named twice.

    Example:
        >>> datamodule = MVTec(root="./datasets/MVTecAD", category=["bottle", "cable"])
        >>> datamodule.categories
        ('bottle', 'cable')
    """

    def __init__(
        self,
        root: Path | str | None = "./datasets/MVTecAD",
        category: list[str] | str | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        self.root = Path(resolve_dataset_root(root, "MVTecAD"))
        known = [*CATEGORIES, *(name for name in _category_folders(self.root) if name not in CATEGORIES)]
        names = select_categories(category, default=CATEGORIES, known=known, where=f"MVTec AD and root='{self.root}'")
        datamodules = [
            MVTecAD(
                root=self.root,
                category=name,
                train_batch_size=train_batch_size,
                eval_batch_size=eval_batch_size,
                num_workers=num_workers,
                test_split_mode=test_split_mode,
                test_split_ratio=test_split_ratio,
                val_split_mode=val_split_mode,
                val_split_ratio=val_split_ratio,
                seed=seed,
            )
            for name in names
        ]
        super().__init__(
            datamodules,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
        )

    def prepare_data(self) -> None:
        """Download MVTec AD into ``root`` if no category is there.

        Raises:
            FileNotFoundError: If some of the categories are missing, or the download fails.
        """
        if _category_folders(self.root) or any((self.root / name).is_dir() for name in self.categories):
            self._check_root()
            return
        new_folders = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            for datamodule in self.datamodules.values():
                datamodule.prepare_data()
        except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
            with suppress(OSError):  # not empty: the user decides about a partial download
                for folder in new_folders:
                    folder.rmdir()
            msg = f"{self._nothing_in_root()} anomalib's download into it failed: {error}. {self._remedy()}"
            raise FileNotFoundError(msg) from error
        self._check_root()

    def _setup(self, _stage: str | None = None) -> None:
        self._check_root()
        super()._setup(_stage)

    def _check_root(self) -> None:
        missing = [name for name in self.categories if not (self.root / name).is_dir()]
        if not missing:
            return
        found = _category_folders(self.root)
        if not found and len(missing) == len(self.categories):
            msg = f"{self._nothing_in_root()} Call `prepare_data()` to download MVTec AD there. {self._remedy()}"
            raise FileNotFoundError(msg)
        msg = (
            f"root='{self.root}' lacks {len(missing)} of {len(self.categories)} categories: {', '.join(missing)}. It "
            f"holds: {', '.join(found) or 'none'}. Add what is missing, or select what is there with `category`, such "
            f"as category={found}."
        )
        raise FileNotFoundError(msg)

    def _nothing_in_root(self) -> str:
        state = "holds no category in MVTec AD's layout" if self.root.is_dir() else "does not exist"
        return f"root='{self.root}' {state}."

    def _remedy(self) -> str:
        return (
            f"Or get the data set from {_WEBSITE} and unpack it so that '{self.root / self.categories[0]}/train/good' "
            "holds PNG images, or give `root` the folder where it is."
        )


def _category_folders(root: Path) -> list[str]:
    """Names of the folders of ``root`` that look like a category of MVTec AD."""
    return sorted(path.parent.parent.name for path in root.glob("*/train/good") if path.is_dir())
