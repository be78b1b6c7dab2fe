# SPDX-License-Identifier: Apache-2.0

"""Exports of our models: anomalib's own, with the backbone's weights and each category's threshold in them.

Weights are fetched late, so a model that is exported before any training must fetch them first. Thresholds of single
categories do not fit into a graph that is never told a category; they travel in the exported model's metadata.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from anomalib_crad.post_processing import write_thresholds

if TYPE_CHECKING:
    from .features import MultiScaleFeatures


class Exporting(LightningModule):
    """Mixin for an ``AnomalibModule`` whose ``model.feature_extractor`` is a ``MultiScaleFeatures``.

    Attributes:
        model: What is exported, between pre- and post-processor.
        post_processor: Where the thresholds are.
    """

    model: nn.Module
    post_processor: nn.Module | None

    def fetch_weights(self) -> None:
        """Fetch the backbone's pretrained weights, if no weights have been loaded yet."""
        cast("MultiScaleFeatures", self.model.feature_extractor).load_weights()

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export to PyTorch as anomalib does: a pickle, which needs this package where it is loaded.

        Args:
            export_root: Folder for the exported file.
            model_file_name: Name of the file without its ending. Defaults to ``"model"``.

        Returns:
            Path of the ``.pt`` file.
        """
        self.fetch_weights()
        return super().to_torch(export_root, model_file_name)  # type: ignore[misc]  # of the AnomalibModule

    def to_onnx(  # type: ignore[override]  # anomalib's signature, not Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX as anomalib does, at the exporter's own opset, with thresholds in the model's metadata.

        Args:
            export_root: Folder for the exported files.
            model_file_name: Name of the file without its ending. Defaults to ``"model"``.
            input_size: Height and width of the input. Defaults to ``None``: any size, resized in the graph.
            **kwargs: Passed on to ``torch.onnx.export``.

        Returns:
            Path of the ONNX file.
        """
        self.fetch_weights()
        kwargs.setdefault("opset_version", 18)
        kwargs.setdefault("verbose", False)
        path: Path = super().to_onnx(export_root, model_file_name, input_size, **kwargs)  # type: ignore[call-arg, assignment]
        write_thresholds(path, self.post_processor)
        return path

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export to OpenVINO as anomalib does, with each category's threshold in the model's metadata.

        Args:
            export_root: Folder for the exported files.
            model_file_name: Name of the files without their endings. Defaults to ``"model"``.
            input_size: Height and width of the input. Defaults to ``None``: any size, resized in the graph.
            compression_type: How weights are compressed or the model is quantised. Defaults to ``None``: not at all.
            datamodule: Images for quantisation. Defaults to ``None``.
            metric: Measure for accuracy-aware quantisation. Defaults to ``None``.
            task: Type of the task. Defaults to ``None``.
            max_drop: Largest loss of ``metric`` in accuracy-aware quantisation. Defaults to ``0.01``.
            ov_kwargs: Passed on to OpenVINO's converter. Defaults to ``None``.
            onnx_kwargs: Passed on to ``torch.onnx.export``. Defaults to ``None``.

        Returns:
            Path of the ``.xml`` file.
        """
        path: Path = super().to_openvino(  # type: ignore[misc]  # of the AnomalibModule
            export_root=export_root,
            model_file_name=model_file_name,
            input_size=input_size,
            compression_type=compression_type,
            datamodule=datamodule,
            metric=metric,
            task=task,
            max_drop=max_drop,
            ov_kwargs=ov_kwargs,
            onnx_kwargs=onnx_kwargs,
        )
        write_thresholds(path, self.post_processor)
        return path
