# SPDX-License-Identifier: Apache-2.0

"""Quantise an exported graph with NNCF, and read the images for it from any of anomalib's datamodules.

anomalib quantises everything and offers no way to leave a part out. Here each model names the modules that keep
floating point (``cleanup`` names operations by modules); docs/benchmarks/int8.md says what 8 bits cost in each part.

A datamodule resizes images only after a trainer has attached it to a model, which never happens in an export, and
images of different sizes make no batch. ``GraphImages`` therefore reads images one at a time, as they are on disk: the
graph resizes by itself, and a graph with a fixed input size gets images of that size. A limited number of images is
spread over the whole dataset, because the first few hundred of a merged dataset all belong to its first categories.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from anomalib.data import ImageBatch
from torchvision.transforms.v2 import InterpolationMode, functional
from torchvision.tv_tensors import Mask

from anomalib_crad.export.cleanup import is_any_of, module_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import nncf
    import openvino
    from anomalib.data import AnomalibDataset, ImageItem
    from numpy.typing import NDArray
    from torchmetrics import Metric

#: How many images NNCF reads by default.
CALIBRATION_IMAGES = 300


class GraphImages(Sequence["NDArray[np.float32]"]):
    """Images of a dataset as inputs of an exported graph, one at a time.

    Args:
        dataset: anomalib's dataset; its augmentations are not applied.
        input_size: Height and width of a graph that takes no other size. Defaults to ``None``: images stay as they are.
        limit: Largest number of images, evenly spread over the dataset. Defaults to ``None``: all.
    """

    def __init__(
        self,
        dataset: AnomalibDataset,
        input_size: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> None:
        self.dataset = copy.copy(dataset)
        self.dataset.augmentations = None
        self.input_size = input_size
        count = len(dataset) if limit is None else min(limit, len(dataset))
        self.rows = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[np.float32]:  # type: ignore[override]  # no slices
        """Read an image as the graph's input.

        Args:
            index: Index of the image.

        Returns:
            Values in [0, 1], 1 x 3 x height x width.
        """
        return self.to_input(self.item(index))

    def item(self, index: int) -> ImageItem:
        """Read an image with its label and mask.

        Args:
            index: Index of the image.

        Returns:
            anomalib's item.
        """
        return cast("ImageItem", self.dataset[self.rows[index]])

    def to_input(self, item: ImageItem) -> NDArray[np.float32]:
        """Convert an item to the graph's input.

        Args:
            item: What :meth:`item` returned.

        Returns:
            Values in [0, 1], 1 x 3 x height x width.
        """
        image = cast("torch.Tensor", item.image)
        if self.input_size is not None and tuple(image.shape[-2:]) != self.input_size:
            # Without antialiasing, like the model's own resize.
            image = functional.resize(image, list(self.input_size), antialias=False)
        return image.unsqueeze(0).numpy()


def kept_operations(model: openvino.Model, modules: Sequence[str]) -> list[str]:
    """List the operations that keep floating point.

    Args:
        model: Graph whose operations are named by their modules.
        modules: Patterns of paths of modules, with the shell's wildcards: ``model.head`` matches what the head computes
            itself, outside its own modules, and ``model.head*`` all of it.

    Returns:
        Names of the operations of these modules, and of those that the converter added: scalings of a few numbers,
        which belong to no module.
    """
    # A constant is stored in as many bits as the operation that reads it.
    operations = [operation for operation in model.get_ordered_ops() if operation.get_type_name() != "Constant"]
    names = [operation.get_friendly_name() for operation in operations]
    return [name for name in names if not module_of(name) or is_any_of(module_of(name), modules)]


def compress_weights(model: openvino.Model, modules: Sequence[str]) -> openvino.Model:
    """Store weights in 8 bits. Arithmetic stays in floating point, and no images are needed.

    Args:
        model: The graph.
        modules: See :func:`kept_operations`.

    Returns:
        The compressed graph.
    """
    import nncf

    return nncf.compress_weights(model, ignored_scope=_ignored(model, modules))


def quantize(model: openvino.Model, images: Sequence[NDArray[np.float32]], modules: Sequence[str]) -> openvino.Model:
    """Quantise weights and activations.

    Args:
        model: The graph.
        images: Inputs to find the ranges of values with.
        modules: See :func:`kept_operations`.

    Returns:
        The quantised graph.
    """
    import nncf

    return nncf.quantize(model, nncf.Dataset(images), **_options(model, images, modules))


def quantize_with_accuracy_control(
    model: openvino.Model,
    images: Sequence[NDArray[np.float32]],
    validation: GraphImages,
    metric: Metric,
    max_drop: float,
    modules: Sequence[str],
) -> openvino.Model:
    """Quantise, and return operations to floating point as long as a metric on validation images drops too far.

    Args:
        model: The graph.
        images: Inputs to find the ranges of values with.
        validation: Images with labels.
        metric: anomalib's metric, higher is better.
        max_drop: Largest drop of the metric.
        modules: See :func:`kept_operations`.

    Returns:
        The quantised graph.
    """
    import nncf

    def validate(compiled: openvino.CompiledModel, rows: Iterable[int]) -> float:
        metric.reset()
        for row in rows:
            metric.update(predict_item(compiled, validation, row))
        return float(metric.compute())

    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(images),
        nncf.Dataset(range(len(validation)), validation.__getitem__),
        validate,
        max_drop=max_drop,
        **_options(model, images, modules),
    )


def input_size(model: openvino.Model) -> tuple[int, int] | None:
    """Return the size of the images that a graph takes.

    Args:
        model: The graph.

    Returns:
        Height and width, or ``None`` if it takes any size.
    """
    height, width = model.input(0).partial_shape[2], model.input(0).partial_shape[3]
    return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None


def predict_item(compiled: openvino.CompiledModel, images: GraphImages, row: int) -> ImageBatch:
    """Run one image through a compiled graph.

    Args:
        compiled: The compiled graph.
        images: The images.
        row: Index of the one to run.

    Returns:
        A batch of one image with prediction, label and mask; the mask is resized to the map.
    """
    item = images.item(row)
    image = images.to_input(item)
    outputs: dict[str, Any] = {
        output.get_any_name(): torch.from_numpy(value) for output, value in compiled(image).items()
    }
    mask = None
    if item.gt_mask is not None:
        size = list(outputs["anomaly_map"].shape[-2:])
        mask = functional.resize(Mask(item.gt_mask).unsqueeze(0), size, interpolation=InterpolationMode.NEAREST)
    return ImageBatch(
        image=torch.from_numpy(image),
        gt_label=None if item.gt_label is None else item.gt_label.reshape(1),
        gt_mask=None if mask is None else Mask(mask),
        image_path=None if item.image_path is None else [item.image_path],
        **outputs,
    )


def _options(model: openvino.Model, images: Sequence[object], modules: Sequence[str]) -> dict[str, Any]:
    import nncf

    return {
        # A symmetric range would waste half of its values on hard swish, whose negative part is small.
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "ignored_scope": _ignored(model, modules),
    }


def _ignored(model: openvino.Model, modules: Sequence[str]) -> nncf.IgnoredScope:
    import nncf

    return nncf.IgnoredScope(names=kept_operations(model, modules), validate=False)
