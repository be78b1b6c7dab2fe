# SPDX-License-Identifier: Apache-2.0

"""Quantisation of an exported graph with NNCF, with the parts that suffer kept in floating point.

anomalib quantises everything and offers no way to leave a part out. Which parts suffer is the model's to say, by the
names of its modules (``cleanup``); what they cost is measured in docs/benchmarks/int8.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import ImageBatch
from torchvision.transforms.v2 import InterpolationMode, functional
from torchvision.tv_tensors import Mask

from anomalib_crad.export.cleanup import is_any_of, module_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import nncf
    import numpy as np
    import openvino
    from numpy.typing import NDArray
    from torchmetrics import Metric

    from anomalib_crad.export.calibration import GraphImages


def kept_operations(model: openvino.Model, modules: Sequence[str]) -> list[str]:
    """List the operations that are not to be quantised.

    Args:
        model: Graph whose operations are named by their modules.
        modules: Patterns of paths of modules to keep, as the shell's: ``model.head`` is what the head does itself,
            outside its own modules, and ``model.head*`` all of it.

    Returns:
        Names of their operations, and of those that the converter made: scalings of a few numbers, which come from no
        module.
    """
    # A constant is stored in as many bits as the operation that reads it.
    operations = [operation for operation in model.get_ordered_ops() if operation.get_type_name() != "Constant"]
    names = [operation.get_friendly_name() for operation in operations]
    return [name for name in names if not module_of(name) or is_any_of(module_of(name), modules)]


def compress_weights(model: openvino.Model, modules: Sequence[str]) -> openvino.Model:
    """Store weights in 8 bits; arithmetic stays in floating point, and no image is needed.

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
    """Quantise, and go back to floating point where a metric on the validation images drops too far.

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
    """Height and width of the images that a graph takes, or ``None`` if it takes any.

    Args:
        model: The graph.
    """
    height, width = model.input(0).partial_shape[2], model.input(0).partial_shape[3]
    return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None


def predict_item(compiled: openvino.CompiledModel, images: GraphImages, row: int) -> ImageBatch:
    """Run one image through a compiled graph.

    Args:
        compiled: The compiled graph.
        images: Where the image comes from.
        row: Which one.

    Returns:
        A batch of one image with prediction, label and mask, which has the size of the map.
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
        # Hard swish has a negative part, for which a symmetric range wastes half of its values.
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "ignored_scope": _ignored(model, modules),
    }


def _ignored(model: openvino.Model, modules: Sequence[str]) -> nncf.IgnoredScope:
    import nncf

    return nncf.IgnoredScope(names=kept_operations(model, modules), validate=False)
