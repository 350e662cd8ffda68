"""Auxiliary targets on samples small enough to work out by hand."""

import math

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets import MultiLabelTarget


def sample(*labels: int) -> BaseDataElement:
    out = BaseDataElement()
    out.gt_instances = InstanceData(labels=torch.tensor(labels, dtype=torch.int64))
    return out


def test_classes_present_are_one_however_often_and_empty_images_are_all_zero() -> None:
    target = TASK_UTILS.build(dict(type="cropr_mm.MultiLabelTarget", num_classes=4))
    encoded = target.encode([sample(2, 0, 2), sample(), sample(3)], torch.device("cpu"))
    assert encoded.dtype == torch.float32
    assert encoded.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_a_batch_without_any_instance_is_all_zero() -> None:
    encoded = MultiLabelTarget(3).encode([sample(), sample()], torch.device("cpu"))
    assert encoded.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_loss_is_the_mean_sigmoid_cross_entropy() -> None:
    target = MultiLabelTarget(2)
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]])
    encoded = target.encode([sample(1), sample(0)], logits.device)
    terms = [
        math.log(2),
        math.log1p(math.exp(-2)),
        math.log1p(math.exp(1)),
        math.log1p(math.exp(3)),
    ]
    assert target.loss(logits, encoded).item() == pytest.approx(sum(terms) / 4, rel=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_loss_of_bfloat16_logits_is_computed_in_float32(autocast: bool) -> None:
    target = MultiLabelTarget(2)
    logits = torch.tensor([[0.3, -1.7]], dtype=torch.bfloat16, requires_grad=True)
    encoded = target.encode([sample(1)], logits.device)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = target.loss(logits, encoded)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, target.loss(logits.float(), encoded))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("labels", "named"), [((0, 3), "got \\[3\\]"), ((-1, 7), "got \\[-1, 7\\]")]
)
def test_labels_that_are_no_class_raise(labels: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=f"num_classes=3.*{named}"):
        MultiLabelTarget(3).encode([sample(1), sample(*labels)], torch.device("cpu"))


def labeled(*labels: int, score: list[float] | None = None) -> BaseDataElement:
    """A sample of multi-label classification, as mmpretrain makes them."""
    out = BaseDataElement()
    out.gt_label = torch.tensor(labels, dtype=torch.int64)
    if score is not None:
        out.gt_score = torch.tensor(score)
    return out


def test_label_sets_of_classification_count_like_instances() -> None:
    encoded = MultiLabelTarget(3).encode([labeled(2, 0), labeled()], torch.device("cpu"))
    assert encoded.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_label_maps_count_the_classes_of_their_pixels() -> None:
    maps = torch.tensor([[[[0, 2], [255, 2]]], [[[255, 255], [255, 255]]]])
    samples = [BaseDataElement(), BaseDataElement()]
    for one, labels in zip(samples, maps, strict=True):
        one.gt_sem_seg = BaseDataElement(data=labels)
    encoded = MultiLabelTarget(3).encode(samples, torch.device("cpu"))
    assert encoded.tolist() == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match=r"labels in \[0, 1\], got \[2\]"):
        MultiLabelTarget(2).encode(samples, torch.device("cpu"))


def test_mixed_scores_come_before_label_sets() -> None:
    samples = [labeled(0, score=[1.0, 0.25]), labeled(1, score=[0.0, 0.75])]
    encoded = MultiLabelTarget(2).encode(samples, torch.device("cpu"))
    assert encoded.tolist() == [[1.0, 0.25], [0.0, 0.75]]


@pytest.mark.parametrize(
    ("score", "message"),
    [([1.0, 0.0, 0.0], r"2 classes, got shapes \[\(3,\)\]"), ([2.0, 0.0], "from 0 to 2")],
)
def test_scores_that_do_not_fit_raise(score: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiLabelTarget(2).encode([labeled(score=score)], torch.device("cpu"))


def test_samples_without_instance_labels_raise() -> None:
    with pytest.raises(ValueError, match=r"gt_instances.labels.*BaseDataElement"):
        MultiLabelTarget(3).encode([BaseDataElement()], torch.device("cpu"))


def test_logits_of_several_queries_raise() -> None:
    target = MultiLabelTarget(3)
    encoded = target.encode([sample(1)], torch.device("cpu"))
    with pytest.raises(ValueError, match=r"\(1, 3\).*got \(1, 16, 3\)"):
        target.loss(torch.zeros(1, 16, 3), encoded)


@pytest.mark.parametrize("num_classes", [0, -2, 1.5, None])
def test_impossible_numbers_of_classes_raise(num_classes: object) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        MultiLabelTarget(num_classes)  # type: ignore[arg-type]
