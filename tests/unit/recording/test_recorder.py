# SPDX-License-Identifier: Apache-2.0

"""What the recorder keeps of a batch, what it refuses, and that it keeps nothing for longer than an epoch."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Subset, TensorDataset

from anomalib_crad.recording import ImageRecord, PredictionRecorder


def make_batch(**fields: object) -> ImageBatch:
    values: dict[str, Any] = {
        "image": torch.zeros(2, 3, 4, 4),
        "gt_label": torch.tensor([0, 1]),
        "gt_mask": torch.stack([torch.zeros(4, 4), torch.eye(4)]),
        "image_path": ["good.png", "bad.png"],
        "mask_path": ["", "mask.png"],
        "pred_score": torch.tensor([-3.0, 250.0]),
        "anomaly_map": torch.arange(32.0).reshape(2, 1, 4, 4),
    }
    return ImageBatch(**(values | fields))


def make_recorder(dataloaders: object, datamodule: object = None) -> PredictionRecorder:
    """Make a recorder in the middle of an epoch, asked to keep whole categories."""
    recorder = PredictionRecorder()
    recorder.start(dataloaders, datamodule)
    recorder.request(maps=True, whole_categories=True)
    return recorder


def record(batch: ImageBatch, outputs: object = None) -> dict[str, list[ImageRecord]]:
    recorder = make_recorder([object()])
    recorder.on_test_batch_end(None, None, outputs, batch, 0)  # type: ignore[arg-type]
    return recorder.finish()


def test_a_batch_becomes_one_record_an_image() -> None:
    good, bad = record(make_batch())["all"]
    assert (good.path, good.anomalous, good.score) == ("good.png", False, -3)
    assert (bad.path, bad.anomalous, bad.score) == ("bad.png", True, 250)
    assert bad.anomaly_map is not None
    assert bad.mask is not None
    assert bad.anomaly_map.tolist() == torch.arange(16.0, 32.0).reshape(4, 4).tolist()
    assert bad.mask.tolist() == torch.eye(4).bool().tolist()


def test_records_share_no_memory_with_the_batch() -> None:
    batch = make_batch()
    recorder = make_recorder([object()])
    recorder.on_validation_batch_end(None, None, batch, batch, 0)  # type: ignore[arg-type]
    for tensor in (batch.anomaly_map, batch.pred_score):
        assert tensor is not None
        tensor.zero_()
    _, bad = recorder.finish()["all"]
    assert bad.score == 250
    assert bad.anomaly_map is not None
    assert bad.anomaly_map.max() == 31


def test_predictions_are_those_that_the_step_returned() -> None:
    outputs = SimpleNamespace(pred_score=torch.tensor([[5.0], [6.0]]), anomaly_map=None)
    good, bad = record(make_batch(), outputs)["all"]
    assert (good.score, bad.score) == (5, 6)
    assert bad.anomaly_map is None


def test_what_a_model_or_the_data_lacks_is_none() -> None:
    good, bad = record(make_batch(pred_score=None, anomaly_map=None, gt_mask=None, image_path=None))["all"]
    assert bad == ImageRecord(path="", anomalous=True, score=None, anomaly_map=None, mask=None)
    assert good.mask is None


@pytest.mark.parametrize(
    ("mask_path", "gt_mask", "expected"),
    [
        (["", ""], torch.zeros(2, 4, 4), [True, False]),
        (["", "mask.png"], torch.zeros(2, 4, 4), [True, True]),
        (["", ""], torch.ones(2, 4, 4), [True, True]),
        (None, torch.zeros(2, 4, 4), [True, True]),
    ],
    ids=["no file", "defect lost by resizing", "mask without file", "no paths at all"],
)
def test_an_anomalous_image_without_annotation_has_no_mask(
    mask_path: list[str] | None,
    gt_mask: Tensor,
    expected: list[bool],
) -> None:
    images = record(make_batch(mask_path=mask_path, gt_mask=gt_mask))["all"]
    assert [image.mask is not None for image in images] == expected


def test_images_of_unknown_label_are_not_recorded() -> None:
    assert record(make_batch(gt_label=None)) == {}


def test_a_map_of_another_size_than_the_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"anomaly_map \(2, 8, 8\) and gt_mask \(2, 4, 4\) of good.png differ in size"):
        record(make_batch(anomaly_map=torch.zeros(2, 8, 8)))


def test_a_wrong_number_of_scores_is_an_error() -> None:
    with pytest.raises(ValueError, match="got 6 scores for 2 images"):
        record(make_batch(), SimpleNamespace(pred_score=torch.zeros(2, 3), anomaly_map=None))


def test_each_dataloader_has_its_own_categories() -> None:
    recorder = make_recorder({"x": [object()], "y": [object()]}, SimpleNamespace(category="bottle"))
    for dataloader_idx in (0, 1):
        recorder.on_test_batch_end(None, None, None, make_batch(), 0, dataloader_idx)  # type: ignore[arg-type]
    assert {category: len(images) for category, images in recorder.finish().items()} == {"bottle": 4}


def make_dataset(*categories: str) -> TensorDataset:
    """A dataset of images named by their place, of which only the frame matters."""
    dataset = TensorDataset(torch.zeros(len(categories)))
    paths = [f"{i}.png" for i in range(len(categories))]
    dataset.samples = pd.DataFrame({"image_path": paths, "category": categories})  # type: ignore[attr-defined]
    return dataset


def feed(recorder: PredictionRecorder, *indices: int, dataloader_idx: int = 0) -> None:
    """Give a recorder a batch of two images by their places."""
    batch = make_batch(image_path=[f"{i}.png" for i in indices])
    recorder.on_test_batch_end(None, None, None, batch, 0, dataloader_idx)  # type: ignore[arg-type]


def taken(recorder: PredictionRecorder) -> dict[str, list[str]]:
    return {category: [image.path for image in images] for category, images in recorder.take_complete()}


def test_a_category_is_handed_over_once_all_its_images_are_there() -> None:
    recorder = make_recorder(DataLoader(make_dataset("a", "a", "a", "b", "b", "c"), batch_size=2))
    assert recorder.expected == {"a": 3, "b": 2, "c": 1}
    feed(recorder, 0, 1)
    assert taken(recorder) == {}
    feed(recorder, 2, 3)
    assert taken(recorder) == {"a": ["0.png", "1.png", "2.png"]}
    assert taken(recorder) == {}
    feed(recorder, 4, 5)
    assert list(taken(recorder)) == ["b", "c"]
    assert recorder.finish() == {}


def test_a_category_in_several_dataloaders_waits_for_all_of_them() -> None:
    recorder = make_recorder([DataLoader(make_dataset("a", "a")), DataLoader(make_dataset("a", "a"))])
    feed(recorder, 0, 1)
    assert taken(recorder) == {}
    feed(recorder, 0, 1, dataloader_idx=1)
    assert len(taken(recorder)["a"]) == 4


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(make_dataset("a", "a"), sampler=RandomSampler(range(2), replacement=True)),
        DataLoader(Subset(make_dataset("a", "a", "a"), [0, 1])),
        DataLoader(make_dataset("a", "a"), sampler=DistributedSampler(make_dataset("a", "a"), 2, 0)),
    ],
    ids=["a sampler of one's own", "a subset", "one of two processes"],
)
def test_where_completeness_cannot_be_known_categories_wait_for_the_end(loader: DataLoader) -> None:
    recorder = make_recorder(loader)
    feed(recorder, 0, 1)
    assert taken(recorder) == {}
    assert list(recorder.finish()) == ["a"]


def test_an_image_that_a_distributed_sampler_repeats_is_not_recorded() -> None:
    dataset = make_dataset("a", "a", "a")
    recorder = make_recorder(DataLoader(dataset, sampler=DistributedSampler(dataset, 2, 1, shuffle=False)))
    feed(recorder, 1, 0)
    assert recorder.first_time == [True, False]
    assert [image.path for image in recorder.finish()["a"]] == ["1.png"]


def test_nothing_is_recorded_before_a_start_nor_kept_after_a_finish() -> None:
    recorder = PredictionRecorder()
    recorder.on_validation_batch_end(None, None, None, make_batch(), 0)  # type: ignore[arg-type]
    assert recorder.finish() == {}
    recorder.start([object()])
    recorder.request(maps=True, whole_categories=True)
    recorder.on_validation_batch_end(None, None, None, make_batch(), 0)  # type: ignore[arg-type]
    assert list(recorder.finish()) == ["all"]
    assert recorder.finish() == {}


def test_the_recorder_is_the_first_callback_until_it_leaves() -> None:
    other = Callback()
    trainer = Trainer(callbacks=[other], logger=False, barebones=True)
    before = list(trainer.callbacks)  # type: ignore[attr-defined]
    recorder = PredictionRecorder.of(trainer)
    assert PredictionRecorder.of(trainer) is recorder
    assert trainer.callbacks == [recorder, *before]  # type: ignore[attr-defined]
    recorder.teardown(trainer)
    assert trainer.callbacks == before  # type: ignore[attr-defined]


def test_a_trainer_that_stops_in_the_middle_keeps_no_recorder() -> None:
    trainer: Any = SimpleNamespace(callbacks=[], test_dataloaders=[object()])
    recorder = PredictionRecorder.of(trainer)
    model: Any = None
    recorder.on_test_epoch_start(trainer, model)
    recorder.request(maps=True, whole_categories=True)
    recorder.on_test_batch_end(trainer, model, None, make_batch(), 0)
    recorder.on_exception(trainer)
    assert trainer.callbacks == []
    assert (recorder.new_records, recorder.finish()) == ([], {})


def test_without_a_request_only_categories_are_looked_up() -> None:
    recorder = PredictionRecorder()
    recorder.start(DataLoader(make_dataset("a", "b")))
    feed(recorder, 0, 1)
    assert (recorder.categories, recorder.first_time, recorder.new_records) == (["a", "b"], [True, True], [])


def test_requests_add_up_and_end_with_the_epoch() -> None:
    recorder = PredictionRecorder()
    loader = DataLoader(make_dataset("a", "b"))
    recorder.start(loader)
    recorder.request(maps=False)
    feed(recorder, 0, 1)
    (first, _) = recorder.new_records
    assert first[0] == "a"
    assert (first[1].score, first[1].anomaly_map, first[1].mask) == (-3, None, None)
    recorder.request(maps=True)
    recorder.request(maps=False)
    feed(recorder, 0, 1)
    assert all(image.anomaly_map is not None for _, image in recorder.new_records)
    assert recorder.finish() == {}, "nobody asked for whole categories"
    recorder.start(loader)
    feed(recorder, 0, 1)
    assert recorder.new_records == []


@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_validation_epoch_end", "on_test_batch_start"])
def test_no_map_outlives_its_batch_unless_whole_categories_are_kept(hook: str) -> None:
    recorder = PredictionRecorder()
    recorder.start(DataLoader(make_dataset("a", "b")))
    recorder.request(maps=True)
    feed(recorder, 0, 1)
    maps = [weakref.ref(image.anomaly_map) for _, image in recorder.new_records]
    getattr(recorder, hook)()
    gc.collect()
    assert [reference() for reference in maps] == [None, None]
