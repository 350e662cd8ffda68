"""The export form of two-stage detectors finds what mmdet's own heads find."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.detector import DetectorPart
from cropr_mm.export.suppression import choose, choose_softly
from cropr_mm.ops.soft_nms import soft_nms

DEMO = Path(__file__).parents[2] / "configs/demo/cropr_tiny_cascade_digits.py"
SIDE = 128


def cascade() -> Config:
    """The demo's cascade of three stages, with boxes and masks that are shared by the classes."""
    return load_config(str(DEMO))


def mask_rcnn() -> Config:
    """The same with one stage, and with boxes and masks of each class."""
    cfg = cascade()
    old = cfg.model.roi_head
    roi_head = dict(
        type="StandardRoIHead",
        bbox_roi_extractor=old.bbox_roi_extractor,
        bbox_head={**old.bbox_head, "reg_class_agnostic": False},
        mask_roi_extractor=old.mask_roi_extractor,
        mask_head={**old.mask_head, "class_agnostic": False},
    )
    cfg.model.type = "MaskRCNN"
    cfg.model.roi_head = roi_head
    cfg.model.train_cfg = None
    return cfg


def shared_mask() -> Config:
    """The cascade whose stages share a mask head and average probabilities."""
    cfg = cascade()
    cfg.model.roi_head.type = "cropr_mm.SharedMaskCascadeRoIHead"
    return cfg


def soft() -> Config:
    """The same with soft suppression, and with scores of masks by themselves."""
    cfg = shared_mask()
    head = cfg.model.roi_head.mask_head
    cfg.model.roi_head.mask_head = {**head, "type": "cropr_mm.ConvUpsampleMaskHead"}
    cfg.model.test_cfg.rcnn.merge(
        dict(
            score_thr=0.0,
            nms=dict(type="cropr_mm.soft_nms", iou_threshold=0.4),
            maskness_thr=0.5,
        )
    )
    return cfg


def built(cfg: Config) -> nn.Module:
    model = build_model(cfg)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.08)
    return model.eval().requires_grad_(False)


def picture(size: tuple[int, int]) -> Tensor:
    """One padded image (1, 3, SIDE, SIDE) with a smooth picture of a size at its upper left."""
    image = torch.zeros(1, 3, SIDE, SIDE)
    coarse = 1.5 * torch.randn(1, 3, 9, 9)
    image[:, :, : size[0], : size[1]] = nn.functional.interpolate(coarse, size, mode="bicubic")
    return image


def predicted(model: nn.Module, images: Tensor, size: tuple[int, int]) -> InstanceData:
    meta: dict[str, Any] = dict(
        img_shape=size,
        ori_shape=size,
        scale_factor=(1.0, 1.0),
        batch_input_shape=(SIDE, SIDE),
        pad_shape=(SIDE, SIDE),
    )
    (sample,) = model.predict(images, [DetDataSample(metainfo=meta)], rescale=False)
    return sample.pred_instances


@pytest.mark.parametrize("config", [cascade, mask_rcnn, shared_mask, soft])
def test_detections_are_those_of_mmdet(config: Callable[[], Config]) -> None:
    model = built(config())
    part = DetectorPart(model).eval()
    for size in ((SIDE, SIDE), (96, SIDE), (SIDE, 90)):
        images = picture(size)
        theirs = predicted(model, images, size)
        outputs = part(images, torch.tensor([size], dtype=torch.float32))
        boxes, scores, labels, masks = outputs[:4]
        real = scores[0] > 0
        assert real.sum() == len(theirs) > 3
        torch.testing.assert_close(boxes[0][real], theirs.bboxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(scores[0][real], theirs.scores, atol=1e-5, rtol=0)
        assert torch.equal(labels[0][real], theirs.labels)
        assert masks.shape[:2] == scores.shape
        assert masks.min() >= 0
        assert masks.max() <= 1
        assert len(outputs) == (5 if config is soft else 4)
        for scored in outputs[4:]:
            torch.testing.assert_close(scored[0][real], theirs.mask_scores, atol=1e-4, rtol=0)
            assert not torch.allclose(scored, scores)


def test_where_nothing_is_found_scores_are_zero() -> None:
    cfg = cascade()
    cfg.model.test_cfg.rcnn.score_thr = 0.999
    model = built(cfg)
    size = (SIDE, SIDE)
    outputs = DetectorPart(model)(picture(size), torch.tensor([size], dtype=torch.float32))
    assert outputs[1].shape == (1, cfg.model.test_cfg.rcnn.max_per_img)
    assert outputs[1].max() == 0


def test_boxes_of_other_groups_do_not_suppress_each_other() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 0, 10, 10], [50, 50, 60, 60]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 0, 0])
    valid = torch.tensor([True, True, True, False])
    chosen = choose(boxes, scores, groups, valid, 0.5, 5)
    assert chosen.index[chosen.real].tolist() == [0, 1]
    assert choose(boxes, scores, groups * 0, valid, 0.5, 5).real.tolist() == [True] + [False] * 4


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_suppression_of_a_fixed_number(method: str) -> None:
    corner = 40 * torch.rand(30, 2)
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(30, 2)], dim=1)
    scores = torch.rand(30, 3) * (torch.rand(30, 3) > 0.4)
    settings: dict[str, Any] = dict(iou_threshold=0.3, method=method, min_score=0.05)
    place, label, best = soft_nms(boxes, scores, max_num=50, **settings)
    entry, group = torch.arange(90) // 3, torch.arange(90) % 3
    chosen = choose_softly(boxes[entry], scores.flatten(), group, 50, **settings)
    assert 20 < chosen.real.sum() == len(best) < 50
    torch.testing.assert_close(chosen.scores[chosen.real], best)
    index = chosen.index[chosen.real]
    assert torch.equal(entry[index], place)
    assert torch.equal(group[index], label)


def test_other_suppression_is_refused() -> None:
    cfg = cascade()
    cfg.model.test_cfg.rcnn.nms = dict(type="soft_nms", iou_threshold=0.5)
    with pytest.raises(SetupError, match=r"test_cfg\.rcnn\.nms of type 'nms' or .*'soft_nms'"):
        DetectorPart(built(cfg))
