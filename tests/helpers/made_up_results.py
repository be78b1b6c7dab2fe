# SPDX-License-Identifier: Apache-2.0

"""A small plan and results that cells of it could have left, without running a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomalib_crad.benchmark.plan import DatasetPlan, ModelPlan, Plan

if TYPE_CHECKING:
    from anomalib_crad.benchmark.cells import Cell

FINISHED = "2026-01-01T00:00:00+00:00"
MACHINE = {"processor": "some CPU", "cores": 2, "torch": "2.0"}


def plan(**changes: Any) -> Plan:  # noqa: ANN401
    """Two models, of which one grows with its data, on one dataset of two categories, with two seeds."""
    settings: dict[str, Any] = {
        "datasets": {"products": DatasetPlan("MVTec", {"category": ["cap", "nut"]})},
        "models": {
            "Crad": ModelPlan("Crad", "largest mean", max_epochs={"products": 3}),
            "PatchCore": ModelPlan("Patchcore", "nearest neighbour", cost_grows=True),
        },
        "seeds": (0, 1),
        "categories_of": "products",
    }
    return Plan(**{**settings, **changes})


def result(cell: Cell, image_auroc: float = 0.9) -> dict[str, Any]:
    """Return what a cell of this kind leaves."""
    if cell.kind == "cost":
        return {
            "latency_ms": {"median": 12.5, "p90": 14.0, "runs": 3},
            "throughput": {"images_per_second": 100.0, "batch_size": 16},
            "threads": 2,
            "load_average_before": 0.5,
            "size_on_disk_bytes": 3 * 2**20,
            "peak_memory_bytes": 500 * 2**20,
            "memory_before_loading_bytes": 400 * 2**20,
            "parameters": 2_000_000,
            "stored_values": 3_000_000,
            "multiply_adds": 4_000_000_000,
            "machine": MACHINE,
            "seconds": 1.0,
            "finished": FINISHED,
        }
    values = {"image_AUROC": image_auroc, "pixel_AUROC": 0.95}
    names = ["cap", "nut"][: cell.categories]
    common = {"image_AUROC": image_auroc - 0.1}
    return {
        "metrics": _report(names, values),
        "common_metrics": _report(names, common),
        "training": {
            "seconds": 30.0,
            "images": 90,
            "images_per_second": 3.0,
            "epochs": 3,
            "steps": 6,
            "training_images": 30,
            "peak_memory_bytes": 700 * 2**20,
            "load_average_before": 0.5,
        },
        "test": {"seconds": 2.0, "images": 10},
        "exports": {"PyTorch": {"path": "exported/model.pt"}, "OpenVINO": {"path": "exported/model.xml"}},
        "machine": MACHINE,
        "seconds": 40.0,
        "finished": FINISHED,
    }


def failure(reason: str = "ValueError: no such thing") -> dict[str, Any]:
    """Return what a cell that failed leaves."""
    return {"error": reason, "seconds": 1.0, "finished": FINISHED}


def _report(names: list[str], values: dict[str, float]) -> dict[str, Any]:
    return {
        "categories": {name: {"values": values} for name in names},
        "mean": values,
        "pooled": {"values": {"image_AUROC": values["image_AUROC"] - 0.05}},
    }
