# SPDX-License-Identifier: Apache-2.0

"""The post-processor by itself: what it makes of predictions, and that nothing of its state gets lost on the way."""

import copy
import io
import logging
import pickle  # noqa: S403 - the tests read what they wrote
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from anomalib_crad.post_processing import CategoryPostProcessor, LevelThresholds, Threshold, Thresholds
from anomalib_crad.recording import PredictionRecorder

FOUND = Thresholds(
    LevelThresholds(Threshold(10, 4), Threshold(2, 1)),
    {
        "cable": LevelThresholds(Threshold(3, 1), Threshold(1, 0.5)),
        "tile / 2": LevelThresholds(Threshold(20, 5)),
    },
)


def make(**arguments: Any) -> CategoryPostProcessor:  # noqa: ANN401
    post_processor = CategoryPostProcessor(**arguments)
    post_processor.thresholds = FOUND
    return post_processor


def predictions(*scores: float) -> InferenceBatch:
    maps = torch.tensor(scores).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    return InferenceBatch(pred_score=torch.tensor(scores), anomaly_map=maps)


def make_batch(*scores: float, labels: tuple[int, ...] | None = None) -> ImageBatch:
    return ImageBatch(
        image=torch.zeros(len(scores), 3, 2, 2),
        gt_label=None if labels is None else torch.tensor(labels),
        **{name: value for name, value in predictions(*scores)._asdict().items() if value is not None},
    )


def validate(
    post_processor: PostProcessor,
    *batches: ImageBatch,
    sanity_checking: bool = False,
    dataloaders: Any = None,  # noqa: ANN401
) -> None:
    """Call what Lightning calls in a validation epoch, of the recorder and of a post-processor."""
    model: Any = None
    trainer: Any = SimpleNamespace(
        callbacks=[], val_dataloaders=dataloaders or [object()], sanity_checking=sanity_checking
    )
    callbacks: list[Any] = [PredictionRecorder.of(trainer), post_processor]
    for callback in callbacks:
        callback.on_validation_epoch_start(trainer, model)
    for number, batch in enumerate(batches):
        for callback in callbacks:
            callback.on_validation_batch_end(trainer, model, batch, batch, number)
    for callback in callbacks:
        callback.on_validation_epoch_end(trainer, model)


def test_thresholds_are_kept_as_they_were_given() -> None:
    assert make().thresholds == FOUND


def test_the_threshold_is_at_half_and_above_it_is_anomalous() -> None:
    result = make()(predictions(6, 10, 10.001, 14))
    assert result.pred_score is not None
    assert result.pred_label is not None
    assert result.pred_score.tolist() == pytest.approx([0.25, 0.5, 0.5001, 0.75], abs=1e-4)
    assert result.pred_label.tolist() == [False, False, True, True]
    assert result.anomaly_map is not None
    assert result.pred_mask is not None
    assert (result.anomaly_map > 0.5).all()
    assert result.pred_mask.all()


def test_a_category_given_has_its_own_thresholds() -> None:
    result = make()(predictions(2, 4), category="cable")
    assert result.pred_score is not None
    assert result.pred_label is not None
    assert result.pred_mask is not None
    assert result.pred_score.tolist() == pytest.approx([0.25, 0.75])
    assert result.pred_label.tolist() == [False, True]
    batch = make_batch(2, 4)
    make().post_process_batch(batch, category="cable")
    assert batch.pred_label is not None
    assert batch.pred_label.tolist() == [False, True]


def test_a_level_that_a_category_lacks_is_the_pooled_one() -> None:
    result = make()(predictions(3), category="tile / 2")
    assert result.anomaly_map is not None
    assert result.anomaly_map.unique().tolist() == [0.75]


def test_an_unknown_category_is_an_error() -> None:
    with pytest.raises(ValueError, match="'screw' has no threshold of its own; known: cable, tile / 2"):
        make()(predictions(1), category="screw")
    with pytest.raises(ValueError, match="neither has any other"):
        CategoryPostProcessor()(predictions(1), category="screw")


def test_a_batch_of_several_categories() -> None:
    """In the engine an unknown category gets the pooled thresholds: the data may hold more than a validation saw."""
    batch = make_batch(4, 25, 14)
    make()._post_process(batch, ["cable", "tile / 2", "screw"])
    assert batch.pred_score is not None
    assert batch.anomaly_map is not None
    assert batch.pred_score.tolist() == pytest.approx([0.75] * 3)
    assert batch.anomaly_map[:, 0, 0].tolist() == pytest.approx([1 - 0.5 / 7, 1 - 0.5 / 24, 1 - 0.5 / 13])


def test_labels_that_a_model_gives_are_kept() -> None:
    batch = make_batch(1, 99)
    batch.pred_label = torch.tensor([True, False])
    make().post_process_batch(batch)
    assert batch.pred_label.tolist() == [True, False]


def test_no_ranking_changes_where_anomalibs_would_tie() -> None:
    scores = torch.linspace(-30, 200, 4001)
    result = make()(InferenceBatch(pred_score=scores))
    assert result.pred_score is not None
    assert result.anomaly_map is None
    assert result.pred_mask is None
    assert (result.pred_score.diff() > 0).all()


def test_sensitivity_moves_labels_only() -> None:
    sensitive, dull = make(image_sensitivity=0.8)(predictions(6)), make(image_sensitivity=0.2)(predictions(14))
    assert sensitive.pred_score == pytest.approx(0.25)
    assert sensitive.pred_label is not None
    assert dull.pred_label is not None
    assert sensitive.pred_label.item()
    assert not dull.pred_label.item()


def test_raw_scores_may_be_kept_with_right_labels() -> None:
    result = make(enable_normalization=False)(predictions(9, 11))
    assert result.pred_score is not None
    assert result.pred_label is not None
    assert result.pred_score.tolist() == [9, 11]
    assert result.pred_label.tolist() == [False, True]


def test_labels_may_be_left_out() -> None:
    result = make(enable_thresholding=False)(predictions(11))
    assert result.pred_label is None
    assert result.pred_mask is None
    assert result.pred_score is not None
    assert result.pred_score > 0.5


def test_scores_come_from_maps_where_a_model_gives_none() -> None:
    result = make()(InferenceBatch(anomaly_map=torch.tensor([[[[1.0, 14.0]]]])))
    assert result.pred_score == pytest.approx(0.75)
    with pytest.raises(ValueError, match="neither pred_score nor anomaly_map"):
        make()(InferenceBatch())


@pytest.mark.parametrize("matching", [True, False])
def test_a_missing_level_takes_the_other_one_only_if_matching(matching: bool) -> None:
    post_processor = CategoryPostProcessor(enable_threshold_matching=matching)
    post_processor.thresholds = Thresholds(LevelThresholds(image=Threshold(10, 4)))
    result = post_processor(predictions(14))
    assert result.anomaly_map is not None
    assert result.anomaly_map.unique().tolist() == [0.75 if matching else 14]


def test_without_thresholds_scores_are_raw_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    post_processor = CategoryPostProcessor()
    with caplog.at_level(logging.WARNING):
        results = [post_processor(predictions(7, 0.1)) for _ in range(2)]
    assert results[1].pred_score.tolist() == pytest.approx([7, 0.1])
    (record,) = caplog.records
    assert "No validation has found thresholds" in record.message


def test_the_last_validation_counts() -> None:
    post_processor = CategoryPostProcessor()
    validate(post_processor, make_batch(1, 3, labels=(0, 1)))
    validate(post_processor, make_batch(1, 3, labels=(0, 0)), make_batch(5, 7, labels=(0, 1)))
    assert post_processor.image_threshold == 6
    validate(post_processor)
    assert post_processor.image_threshold == 6, "an epoch that brings nothing changes nothing"


def test_images_that_a_distributed_sampler_repeats_are_left_out() -> None:
    """The second of two processes has the image 1 of three, and the image 0 again."""
    dataset = TensorDataset(torch.zeros(3))
    loader: Any = DataLoader(dataset, sampler=DistributedSampler(dataset, 2, 1, shuffle=False))
    repeated, whole = CategoryPostProcessor(), CategoryPostProcessor()
    validate(repeated, make_batch(1, 99, labels=(0, 0)), dataloaders=loader)
    validate(whole, make_batch(1, labels=(0,)))
    assert repeated.thresholds == whole.thresholds


def test_a_level_that_the_last_validation_lacks_is_forgotten() -> None:
    post_processor = make()
    batch = make_batch(1, 3, labels=(0, 1))
    batch.anomaly_map = None
    validate(post_processor, batch)
    assert post_processor._pixel_threshold.isnan()
    assert not post_processor.thresholds.categories


def test_a_sanity_check_finds_nothing() -> None:
    post_processor = CategoryPostProcessor()
    validate(post_processor, make_batch(1, 3, labels=(0, 1)), sanity_checking=True)
    assert post_processor.image_threshold.isnan()


def test_pooled_labels_equal_anomalibs_for_the_same_best_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [float(score) for score in torch.randn(60, generator=generator)]
    labels = tuple(int(score + float(torch.randn(1, generator=generator)) > 0.5) for score in scores)
    ours, theirs = CategoryPostProcessor(), PostProcessor()
    validate(ours, make_batch(*scores, labels=labels))
    batch = make_batch(*scores, labels=labels)
    validate(theirs, batch)

    def f1(label: torch.Tensor) -> float:
        truth = torch.tensor(labels).bool()
        return float(2 * (label & truth).sum() / (label.sum() + truth.sum()))

    # anomalib's threshold is a score itself, and its labels ask for more than that.
    assert f1(ours(predictions(*scores)).pred_label) >= f1(theirs(predictions(*scores)).pred_label)


def test_everything_survives_a_copy_and_a_pickle() -> None:
    post_processor = make(rule="recall", target=0.9, per_category=True)
    for twin in (copy.deepcopy(post_processor), pickle.loads(pickle.dumps(post_processor))):  # noqa: S301
        assert twin.thresholds == FOUND
        assert (twin.rule, twin.target, twin.per_category) == ("recall", 0.9, True)


def test_a_state_dict_carries_all_thresholds_through_a_file_of_plain_data() -> None:
    file = io.BytesIO()
    torch.save({"state_dict": torch.nn.ModuleDict({"post": make()}).state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["state_dict"]
    fresh = torch.nn.ModuleDict({"post": CategoryPostProcessor()})
    fresh.load_state_dict(copy.deepcopy(loaded), strict=True)
    assert fresh["post"].thresholds == FOUND


def test_thresholds_of_categories_survive_a_rebuilt_state_dict_beside_the_config() -> None:
    post_processor, fresh = make(), CategoryPostProcessor()
    fresh.load_checkpoint_config(post_processor.checkpoint_config())
    fresh.load_state_dict(dict(post_processor.state_dict()), strict=True)
    assert fresh.thresholds == FOUND


def test_the_config_restores_every_argument() -> None:
    arguments: dict[str, Any] = {
        "rule": "precision",
        "target": 0.7,
        "per_category": True,
        "pixel_false_alarm_rate": 0.02,
        "enable_normalization": False,
        "enable_thresholding": False,
        "enable_threshold_matching": False,
        "image_sensitivity": 0.3,
        "pixel_sensitivity": 0.4,
    }
    saved, fresh = CategoryPostProcessor(**arguments), CategoryPostProcessor()
    saved.validated_categories = ("cable", "cap")
    fresh.load_checkpoint_config(saved.checkpoint_config())
    assert {name: getattr(fresh, name) for name in arguments} == arguments
    assert fresh.validated_categories == ("cable", "cap")


def test_either_class_loads_the_others_state_and_agrees_on_labels() -> None:
    raw = predictions(1, 6, 9.9, 10.1, 14, 60)
    theirs = PostProcessor()
    theirs.load_checkpoint_config(make().checkpoint_config())
    theirs.load_state_dict(make().state_dict(), strict=True)
    assert theirs(raw).pred_label.tolist() == make()(raw).pred_label.tolist()
    assert theirs(raw).pred_score.tolist()[1::3] == pytest.approx([0.25, 0.75])

    ours = make()
    ours.load_checkpoint_config(theirs.checkpoint_config())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.thresholds == Thresholds(FOUND.pooled), "thresholds of categories belonged to another validation"


def test_a_state_of_anomalibs_with_one_score_only_still_works() -> None:
    theirs, ours = PostProcessor(), CategoryPostProcessor()
    batch = make_batch(3, 3, labels=(0, 0))
    validate(theirs, batch)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours(predictions(2, 3, 4)).pred_score.tolist() == pytest.approx([0.25, 0.5, 0.75])


@pytest.mark.parametrize("name", ["image_sensitivity", "pixel_sensitivity"])
def test_a_sensitivity_out_of_range_is_an_error(name: str) -> None:
    values: dict[str, Any] = {name: 1.5}
    with pytest.raises(ValueError, match=f"{name} must be between 0 and 1, got 1.5"):
        CategoryPostProcessor(**values)


def test_wrong_rules_are_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="rule must be one of"):
        CategoryPostProcessor(rule="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pixel_false_alarm_rate is a false-alarm rate"):
        CategoryPostProcessor(pixel_false_alarm_rate=1)
