# SPDX-License-Identifier: Apache-2.0

"""Several categories in one datamodule, for one model that does not get the category.

anomalib's datamodules hold one category each. This one merges the sets of several: a category's images, labels, masks
and splits are exactly those of its own datamodule. The category of an image is only in ``samples["category"]`` of
``train_data``, ``val_data`` and ``test_data``; no batch carries it.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from anomalib.data import AnomalibDataModule, AnomalibDataset
from rich.console import Console
from torch.utils.data import DataLoader, SequentialSampler
from torchvision.transforms.v2 import Transform

from anomalib_crad.data.dataset import MultiCategoryDataset
from anomalib_crad.data.inspection import inspect_samples, reject_bad_files, reject_half_labelled, reject_untrained
from anomalib_crad.data.merging import (
    SUBSETS,
    common_folder_name,
    overwritten_pictures,
    read_subsets,
    unique_category_names,
)
from anomalib_crad.data.samplers import CategoryBalancedSampler, MaskBatchSampler
from anomalib_crad.data.sources import ALL, agreed, given_datamodules

logger = logging.getLogger(__name__)


class MultiCategory(AnomalibDataModule):
    """Merge categories of any of anomalib's image datamodules.

    Give either ``datamodules``, or ``base`` with ``categories`` and ``base_args``.

    Args:
        datamodules (Sequence[AnomalibDataModule] | None): anomalib's image datamodules, one for each category, or other
            ``MultiCategory`` (to mix bases). Each one's own settings split it into training, validation and test
            images; the batch sizes, workers and augmentations below replace its own. Dicts with ``class_path`` and
            ``init_args`` in configurations that anomalib passes on without making objects of them.
            Defaults to ``None``.
        train_batch_size (int | None): Images in a training batch.
            Defaults to ``None``: the value of the datamodules, if they agree.
        eval_batch_size (int | None): Images in a validation or test batch.
            Defaults to ``None``: the value of the datamodules, if they agree.
        num_workers (int | None): Processes that load images.
            Defaults to ``None``: the value of the datamodules, if they agree.
        train_augmentations (Transform | None): Augmentations of training images.
            Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations of validation images.
            Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations of test images.
            Defaults to ``None``.
        augmentations (Transform | None): Augmentations where none are given for training, validation or test.
            Defaults to ``None``.
        base (str | None): Name of anomalib's datamodule for each category, such as ``Visa`` or ``Folder``, or the
            import path of another one.
            Defaults to ``None``.
        categories (list[str | int] | str): The categories of ``base``: one, a list, or ``all``. With ``Folder``, names
            of the folders in its root. A number stands for the name that reads as this number (YAML reads ``01`` as 1).
            Defaults to ``"all"``.
        base_args (dict[str, Any] | None): Arguments of ``base`` that all categories share, such as ``root`` and
            ``val_split_mode``. With ``Folder``, ``root`` is the folder above the categories' folders.
            Defaults to ``None``.
        balance (Literal["image", "category"]): How training images are drawn: ``image``, each once in an epoch; or
            ``category``, as many from each category, in epochs of the same length.
            Defaults to ``"image"``.
        check (bool): Inspect all images when the data are set up: print a table, log problems that weaken results, and
            raise an error for problems that spoil them.
            Defaults to ``False``.

    Raises:
        ValueError: If there are no datamodules, if one has augmentations of its own, if they disagree on a value that
            is not given, or if base, categories and arguments do not fit together.
        FileNotFoundError: If the categories are folders of a root that does not exist or has none.

    Example:
        >>> from anomalib.data import MVTecAD, Visa
        >>> datamodule = MultiCategory([MVTecAD(category="bottle"), Visa(category="candle")])
        >>> datamodule.categories
        ('bottle', 'candle')
        >>> MultiCategory(base="BTech", train_batch_size=16).categories
        ('01', '02', '03')
    """

    def __init__(
        self,
        datamodules: Sequence[AnomalibDataModule] | None = None,
        train_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        base: str | None = None,
        categories: list[str | int] | str = ALL,
        base_args: dict[str, Any] | None = None,
        balance: Literal["image", "category"] = "image",
        check: bool = False,
    ) -> None:
        if balance not in {"image", "category"}:
            msg = f"`balance` is {balance!r}; choose 'image' or 'category'."
            raise ValueError(msg)
        given = given_datamodules(datamodules, base, categories, base_args)
        super().__init__(
            train_batch_size=agreed(given, "train_batch_size", train_batch_size),
            eval_batch_size=agreed(given, "eval_batch_size", eval_batch_size),
            num_workers=agreed(given, "num_workers", num_workers),
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
        )
        self.balance = balance
        self.check = check
        single = [one for datamodule in given for one in datamodules_by_category(datamodule).values()]
        self._given = given
        self._datamodules = dict(zip(unique_category_names(single), single, strict=True))
        self._name = common_folder_name(single) or type(self).__name__
        if len(single) == 1:
            self.category = single[0].category

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name in the path of results: the folder that holds all categories, or else the class.

        anomalib's visualizer saves a picture under the part of the image's path below the folder of this name, so the
        pictures of different categories do not overwrite each other.
        """
        return self._name

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, as in the column ``category`` of ``samples``."""
        return tuple(self._datamodules)

    @property
    def datamodules(self) -> dict[str, AnomalibDataModule]:
        """The datamodule of each category."""
        return dict(self._datamodules)

    def prepare_data(self) -> None:
        """Let each datamodule download its images where they are missing.

        Raises:
            FileNotFoundError: If a datamodule cannot; the message names its category and root.
        """
        for datamodule in self._given:
            _prepare(datamodule)

    def _setup(self, _stage: str | None = None) -> None:
        for subset, data in read_subsets(self._datamodules).items():
            setattr(self, f"{subset}_data", data)
        self._reject_bad_data()

    def _create_test_split(self) -> None:
        """Do nothing: each category's datamodule has split its own images."""

    def _create_val_split(self) -> None:
        """Do nothing: each category's datamodule has split its own images."""

    def _reject_bad_data(self) -> None:
        subsets = {name: data for name in SUBSETS if (data := getattr(self, f"{name}_data", None)) is not None}
        if self.check:
            self._inspect(subsets)
        roots = {name: getattr(datamodule, "root", None) for name, datamodule in self._datamodules.items()}
        reject_untrained(subsets, roots)
        reject_half_labelled(subsets)
        if not self.check:
            reject_bad_files(subsets)
        if "test" in subsets:
            self._warn_of_overwritten_pictures(subsets["test"])

    def _inspect(self, subsets: dict[str, MultiCategoryDataset]) -> None:
        is_first_process = self.trainer is None or self.trainer.is_global_zero
        report = inspect_samples({name: data.samples for name, data in subsets.items()}, progress=is_first_process)
        if is_first_process:
            Console().print(report.table())
            for problem in report.warnings:
                logger.warning("%s", problem)
        report.raise_for_errors()

    def _warn_of_overwritten_pictures(self, test_data: MultiCategoryDataset) -> None:
        clash = overwritten_pictures(test_data.samples, self.name, self.category)
        if clash:
            logger.warning(
                "anomalib saves the pictures of '%s' and '%s' under one name, so that one overwrites the other. "
                "Keep all categories under one common folder, without symbolic links that leave it.",
                *clash,
            )

    def train_dataloader(self) -> DataLoader:
        """Load training images in random order; see ``balance``."""
        if self.balance == "image":
            return super().train_dataloader()
        return DataLoader(
            self.train_data,
            batch_size=self.train_batch_size,
            sampler=CategoryBalancedSampler(self.train_data.samples["category"].tolist()),
            **self._loading(self.train_data),
        )

    def val_dataloader(self) -> DataLoader:
        """Load validation images in order; no batch mixes images with and without masks."""
        return self._ordered_loader(self.val_data)

    def test_dataloader(self) -> DataLoader:
        """Load test images in order; no batch mixes images with and without masks."""
        return self._ordered_loader(self.test_data)

    def _ordered_loader(self, dataset: AnomalibDataset) -> DataLoader:
        has_mask = dataset.samples["has_mask"]
        if has_mask.all() or not has_mask.any():  # a plain loader, which Lightning can distribute
            return DataLoader(dataset, batch_size=self.eval_batch_size, shuffle=False, **self._loading(dataset))
        batches = MaskBatchSampler(SequentialSampler(dataset), self.eval_batch_size, has_mask.tolist())
        return DataLoader(dataset, batch_sampler=batches, **self._loading(dataset))

    def _loading(self, dataset: AnomalibDataset) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "collate_fn": self.external_collate_fn or dataset.collate_fn}


def datamodules_by_category(datamodule: AnomalibDataModule) -> dict[str, AnomalibDataModule]:
    """List the categories of a datamodule.

    Args:
        datamodule: ``MultiCategory`` or any of anomalib's image datamodules.

    Returns:
        The datamodule of each category, by the category's name; for one of anomalib's this is the datamodule itself.
    """
    if isinstance(datamodule, MultiCategory):
        return datamodule.datamodules
    return {datamodule.category or datamodule.name: datamodule}


def _prepare(datamodule: AnomalibDataModule) -> None:
    if isinstance(datamodule, MultiCategory):
        datamodule.prepare_data()
        return
    try:
        datamodule.prepare_data()
    except Exception as error:
        # Offline, the error is about a network; the user needs to know which images are missing, and where.
        reason = str(error) or type(error).__name__
        root = getattr(datamodule, "root", None)
        what = f"{type(datamodule).__name__} has no images of category '{datamodule.category}' in root='{root}'"
        msg = f"{what} and cannot download them: {reason}. Put the data set there, or give `root` where it is."
        raise FileNotFoundError(msg) from error
