# SPDX-License-Identifier: Apache-2.0

"""What processes exchange, also where one of them has nothing, and which images of a share are repetitions."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.metrics import F1Score
from torch import distributed, multiprocessing
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from anomalib_crad.recording import ImageRecord
from anomalib_crad.recording.processes import SampleOrder, from_first_process, gather_categories, join_updates

PROCESSES = 2


@pytest.mark.parametrize("size", [1, 6, 7])
@pytest.mark.parametrize("own_batch_sampler", [False, True])
def test_each_image_comes_for_the_first_time_in_one_process_only(size: int, *, own_batch_sampler: bool) -> None:
    dataset = TensorDataset(torch.arange(size))
    first_times: list[int] = []
    for rank in range(3):
        sampler: DistributedSampler = DistributedSampler(dataset, num_replicas=3, rank=rank, shuffle=False)
        loader: Any = DataLoader(dataset, sampler=sampler, batch_size=2)
        if own_batch_sampler:
            loader = DataLoader(dataset, batch_sampler=BatchSampler(sampler, batch_size=2, drop_last=False))
        order = SampleOrder(loader)
        for (indices,) in loader:
            keep = order.first_time(len(indices))
            first_times += [i for i, first_time in zip(indices.tolist(), keep, strict=True) if first_time]
    assert sorted(first_times) == list(range(size))


def test_a_single_process_gets_its_own_records_one_category_at_a_time() -> None:
    images = {"nut": [make_record("n")], "bolt": [make_record("b")]}
    gathered = gather_categories(images)
    assert next(gathered) == ("bolt", [make_record("b")])
    assert list(images) == ["nut"], "what was handed over can be freed"
    assert [category for category, _ in gathered] == ["nut"]
    assert from_first_process(3) == 3


def make_record(path: str) -> ImageRecord:
    return ImageRecord(path, anomalous=False, score=1.0, anomaly_map=None, mask=None)


def exchange(rank: int, folder: Path) -> None:
    """Take part in every exchange, the second process with little or nothing, and write down what came out."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=PROCESSES,
    )
    shares: list[dict[str, list[ImageRecord]]] = [
        {"nut": [make_record("n0"), make_record("n1")], "bolt": [make_record("b0")]},
        {"nut": [make_record("n2")]},
    ]
    with_an_empty_process = [name for name, _ in gather_categories(dict(shares[0]) if rank == 0 else {})]
    gathered = [(name, [image.path for image in images]) for name, images in gather_categories(shares[rank])]

    metrics = [F1Score(fields=["pred_label", "gt_label"], strict=False) for _ in range(2)]
    if rank == 0:
        labels: Any = SimpleNamespace(pred_label=torch.tensor([True, True]), gt_label=torch.tensor([True, False]))
        metrics[0].update(labels)
    join_updates(metrics)
    computed = [None if (value := metric.compute()) is None else float(value) for metric in metrics]

    result = {
        "gathered": gathered,
        "with_an_empty_process": with_an_empty_process,
        "computed": computed,
        "sent": from_first_process(f"of process {rank}"),
    }
    (folder / f"{rank}.json").write_text(json.dumps(result), encoding="utf-8")
    distributed.destroy_process_group()


def test_processes_exchange_records_results_and_counts(tmp_path: Path) -> None:
    multiprocessing.spawn(exchange, (tmp_path,), nprocs=PROCESSES)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(PROCESSES))
    assert first["gathered"] == [["bolt", ["b0"]], ["nut", ["n0", "n1", "n2"]]]
    assert first["with_an_empty_process"] == ["bolt", "nut"]
    assert second["gathered"] == second["with_an_empty_process"] == []
    # Both processes compute the metric that one of them updated, and neither the one that nobody did.
    assert first["computed"] == second["computed"] == [pytest.approx(2 / 3), None]
    assert first["sent"] == second["sent"] == "of process 0"
