# SPDX-License-Identifier: Apache-2.0

"""Tables and plots from results: what they show, and that they leave out what is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import made_up_results as made_up
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from anomalib_crad.benchmark.cells import NO_MODEL, cells_of
from anomalib_crad.benchmark.plots import write_plots
from anomalib_crad.benchmark.results import (
    COST_COLUMNS,
    QUALITY_COLUMNS,
    cost_rows,
    failure_lines,
    failure_list,
    quality_rows,
)
from anomalib_crad.benchmark.tables import (
    category_table,
    cost_table,
    quality_table,
    summary_table,
    write_tables,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_crad.benchmark.cells import Cell
    from anomalib_crad.benchmark.results import Results


@pytest.fixture
def results() -> Results:
    """Crad is better with one seed than with the other."""
    auroc = {("Crad", 0): 0.92, ("Crad", 1): 0.88}
    return [(cell, made_up.result(cell, auroc.get((cell.model, cell.seed), 0.7))) for cell in cells_of(made_up.plan())]


def test_a_row_for_each_category_mean_and_pooled(results: Results) -> None:
    frame = quality_rows(made_up.plan(), results)
    assert list(frame.columns) == QUALITY_COLUMNS
    whole = frame[(frame["model"] == "Crad") & (frame["seed"] == 0)].set_index("category")
    assert list(whole.index) == ["cap", "nut", "mean", "pooled"]
    assert whole["image_AUROC"].tolist() == pytest.approx([0.92, 0.92, 0.92, 0.87])
    assert whole["common_image_AUROC"]["mean"] == pytest.approx(0.82)
    assert whole["image_score"]["mean"] == "largest mean"
    assert '"class_path": "Crad"' in whole["settings"]["mean"]


def test_costs_are_flat(results: Results) -> None:
    frame = cost_rows(results)
    assert list(frame.columns) == COST_COLUMNS
    assert frame["latency_ms_median"].eq(12.5).all()
    assert frame["categories"].dropna().tolist() == [1, 1]


def test_seeds_are_shown_as_mean_and_distance(results: Results) -> None:
    plan = made_up.plan()
    table = quality_table(plan, quality_rows(plan, results), "products")
    crad = next(line for line in table.splitlines() if line.startswith("| Crad"))
    assert "| 0.900 ± 0.020 |" in crad
    assert "| 0.800 ± 0.020 |" in crad  # the common pooling
    assert crad.endswith("| 3 | 30 | 3.0 | 700 | 2 |")
    by_category = category_table(plan, quality_rows(plan, results), "products", "image_AUROC")
    assert by_category.splitlines()[0] == "| image AUROC | cap | nut | mean |"


def test_costs_are_shown_in_units_that_people_use(results: Results) -> None:
    table = cost_table(made_up.plan(), cost_rows(results), "products")
    assert "| Crad | PyTorch | 12.5 | 14.0 | 100.0 | 500 | 100 | 3.0 | 2.00 | 3.00 | 4.00 |" in table
    assert "On the CPU, whatever trained the model. Threads: 2." in table


def test_what_failed_is_named_once_with_its_reason(results: Results) -> None:
    def fail(cell: Any, result: Any) -> Any:  # noqa: ANN401
        if cell.model != "PatchCore":
            return result
        return made_up.failure(f"{NO_MODEL}: ValueError: no such thing" if cell.kind == "cost" else "ValueError: x")

    failed = [(cell, fail(cell, result)) for cell, result in results]
    plan = made_up.plan()
    assert failure_list(failed) == "- PatchCore: ValueError: x (products)"
    assert "PatchCore" not in quality_table(plan, quality_rows(plan, failed), "products")
    assert len(failure_lines(failed)) == 3
    assert failure_lines(failed)[0] == "PatchCore on products, seed 0: quality: ValueError: x"


def test_a_model_that_could_not_be_measured_is_named_unless_its_training_is(results: Results) -> None:
    """Its training may have succeeded since."""
    gone = f"RuntimeError: {NO_MODEL}: ValueError: x"
    failed = [(cell, made_up.failure(gone) if cell.kind == "cost" else result) for cell, result in results]
    assert len(failure_lines(failed)) == 6
    assert f"- Crad: {gone} (products in PyTorch, products in OpenVINO)" in failure_list(failed)


def test_a_batch_that_failed_is_named_with_its_reason(results: Results) -> None:
    reason = "a batch of 16 is not taken: RuntimeError: fixed"
    failed = [(c, {**r, "throughput": {"error": reason}} if r and c.kind == "cost" else r) for c, r in results]
    assert f"- Crad: {reason} (products in PyTorch, products in OpenVINO)" in failure_list(failed)
    assert cost_rows(failed)["error"].eq(reason).all()


def test_a_training_that_diverged_leaves_its_reason_and_whole_reports(results: Results, tmp_path: Path) -> None:
    reason = "some image scores are NaN or infinite"

    def diverge(cell: Cell, result: Any) -> Any:  # noqa: ANN401
        if cell.kind == "cost" or cell.model != "Crad":
            return result
        missing = {"image_AUROC": reason, "mAD": "it is the mean of all seven others"}
        empty = {"categories": {"cap": {"values": {}, "missing": missing}}, "mean": {"image_AUROC": "nan"}}
        report = {**empty, "pooled": None}
        # What is not finite is written as text.
        training = {**result["training"], "images_per_second": "inf", "seconds": "nan"}
        return {**result, "metrics": report, "common_metrics": report, "training": training}

    plan = made_up.plan()
    diverged = [(cell, diverge(cell, result)) for cell, result in results]
    write_tables(plan, diverged, tmp_path)
    write_plots(plan, diverged, tmp_path)
    assert f"- Crad: no image_AUROC: {reason} (cap) (products)" in (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert len(failure_lines(diverged)) == 2
    quality = pd.read_csv(tmp_path / "quality.csv").query("model == 'Crad' and seed == 0").set_index("category")
    assert quality["missing"]["cap"] == f"image_AUROC: {reason}; mAD: it is the mean of all seven others"
    assert quality["image_AUROC"].isna().all()
    Console(width=80, record=True).print(summary_table(plan, diverged))


def test_data_without_masks_are_no_failure(results: Results) -> None:
    for cell, result in results:
        if result is not None and cell.kind == "quality":
            result["metrics"]["categories"]["cap"]["missing"] = {"pixel_AUROC": "no image has a mask"}
    assert failure_lines(results) == []


def test_a_row_says_on_what_it_was_measured(results: Results) -> None:
    quality, cost = quality_rows(made_up.plan(), results), cost_rows(results)
    for frame in (quality, cost):
        assert frame["machine"].eq('{"cores": 2, "processor": "some CPU"}').all()
        assert frame["versions"].eq('{"torch": "2.0"}').all()
    crad = cost[cost["model"] == "Crad"].iloc[0]
    assert '"class_path": "Crad"' in crad["source_settings"]
    assert '"batch_size": 16' in crad["settings"]


def test_the_summary_fits_a_terminal(results: Results) -> None:
    console = Console(width=80, record=True)
    console.print(summary_table(made_up.plan(), results))
    text = console.export_text()
    assert "0.900" in text
    assert "12.5" in text
    assert "…" not in text


def test_reports_of_a_run_that_has_not_begun_are_empty_but_there(tmp_path: Path) -> None:
    nothing: Results = [(cell, None) for cell in cells_of(made_up.plan())]
    write_tables(made_up.plan(), nothing, tmp_path)
    write_plots(made_up.plan(), nothing, tmp_path)
    assert pd.read_csv(tmp_path / "quality.csv").empty
    assert not list(tmp_path.glob("*.png"))


def test_plots_are_pictures(results: Results, tmp_path: Path) -> None:
    write_plots(made_up.plan(), results, tmp_path)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {
        "cost_against_categories.png",
        "products_image_AUROC.png",
        "products_pixel_AUROC.png",
        "products_metric_against_latency.png",
    }
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1_000_000)) > 3  # type: ignore[arg-type]  # more than axes
