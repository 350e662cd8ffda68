"""Detectors converted from detectron2's names against a naive re-statement of the same weights."""

from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401 - fills its registries
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from naive_detectron2 import NaiveDetector, Settings
from torch import Tensor, nn

from cropr_mm.build import build_model
from cropr_mm.checkpoints.published import convert

BASE = Path(__file__).parents[2] / "configs/_base_/models/cascade_mask_rcnn.py"
TOLERANCE = dict(rtol=1e-4, atol=1e-4)
VIT = Settings(eva=False, mlp_ratio=4.0)
CASES = {
    "eva02_det": Settings(),
    "eva02_det-padded": Settings(window_size=3, global_blocks=(0, 2)),
    "vitdet": VIT._replace(cascade=False),
    "vitdet-cascade": VIT,
    "vitdet-padded": VIT._replace(cascade=False, window_size=5),
}


def small_config(s: Settings) -> Config:
    """Our model of the same sizes, everything else as in the configs that are shipped."""
    model = Config.fromfile(BASE).model
    arch: dict[str, Any] = dict(embed_dim=s.embed_dim, depth=s.depth, num_heads=s.num_heads)
    arch |= dict(hidden_dim=int(s.embed_dim * s.mlp_ratio), cls_token=False)
    if s.eva:
        arch |= dict(mlp="swiglu", mlp_norm=True, attn_bias="qv", rope="eva")
    model.backbone = dict(
        type="cropr_mm.CroprViT",
        arch=arch,
        img_size=s.img_size,
        patch_size=16,
        window_size=s.window_size,
        global_block_indexes=s.global_blocks,
        use_rel_pos=not s.eva,
        window_rope="origin" if s.eva else "slot",
        final_norm=False,
    )
    model.neck.merge(dict(in_channels=s.embed_dim, out_channels=s.channels))
    model.rpn_head.merge(dict(in_channels=s.channels, feat_channels=s.channels))
    roi = model.roi_head
    convs = dict(in_channels=s.channels, conv_out_channels=s.channels, num_classes=s.num_classes)
    roi.mask_head.merge(convs)
    for extractor in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
        extractor.out_channels = s.channels
    roi.bbox_head = [dict(head, **convs, fc_out_channels=s.fc_dim) for head in roi.bbox_head]
    if not s.cascade:
        roi.type = "StandardRoIHead"
        roi.bbox_head = dict(roi.bbox_head[0], reg_class_agnostic=False)
        del roi.num_stages, roi.stage_loss_weights
        model.type, model.train_cfg.rcnn = "MaskRCNN", model.train_cfg.rcnn[0]
    if not s.masks:
        del roi.mask_head, roi.mask_roi_extractor
    model.test_cfg.rcnn = dict(
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=400,
        mask_thr_binary=0.5,
    )
    return Config(dict(default_scope="mmdet", model=model))


def spread(model: nn.Module) -> None:
    """Random weights that keep values of order one, so that no zero or one hides a mistake."""
    for name, value in model.named_parameters():
        noise = torch.randn_like(value)
        if value.dim() == 1:
            value.data = value + 0.2 * noise
        elif "pos_embed" in name or "rel_pos" in name:
            value.data = 0.5 * noise
        else:
            value.data = 1.5 * noise / value[0].numel() ** 0.5
        if "mask_head.predictor" in name:
            value.data *= 3
        # Logits and growth far from where sigmoid and exponential are flat or cut off: mmdet ranks
        # proposals by probability and cuts growth at both ends, detectron2 by logit and at one.
        if any(layer in name for layer in ("objectness", "anchor_deltas", "bbox_pred")):
            value.data *= 0.3


def samples(side: int) -> list[DetDataSample]:
    meta = dict(img_shape=(side, side), ori_shape=(side, side), scale_factor=(1.0, 1.0))
    return [DetDataSample(metainfo=meta)]


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest) -> tuple[NaiveDetector, nn.Module]:
    """The naive detector, and ours with its converted weights, loaded strictly."""
    torch.manual_seed(0)
    naive = NaiveDetector(CASES[request.param]).eval()
    spread(naive)
    ours = build_model(small_config(naive.settings)).eval()
    source = request.param.split("-")[0]
    converted = convert(naive.state_dict(), source)
    ours.load_state_dict(converted.weights, strict=True)
    return naive, ours


@torch.no_grad()
def test_every_stage_gives_the_same(pair: tuple[NaiveDetector, nn.Module]) -> None:
    naive, ours = pair
    gaps: list[float] = []
    image = torch.randn(3, naive.settings.img_size, naive.settings.img_size)
    close(ours.backbone(image[None])[0][0], naive.backbone.net(image), gaps)
    maps = naive.backbone(image)
    for got, expected in zip(ours.extract_feat(image[None]), maps, strict=True):
        close(got, expected, gaps)

    scene = samples(naive.settings.img_size)
    (proposals,) = ours.rpn_head.predict(maps, scene, rescale=False)
    expected = naive.proposals(maps)
    assert len(expected) > 50
    matched(proposals.bboxes, expected, gaps)

    found = naive.detect(image, limit=400)
    (got,) = ours.roi_head.predict(maps, [proposals], scene, rescale=False)
    assert len(found.scores) > 20
    assert len(found.labels.unique()) > 1
    size = naive.settings.img_size
    order = matched(
        torch.cat([got.bboxes / size, got.scores[:, None], got.labels[:, None]], dim=1),
        torch.cat([found.boxes / size, found.scores[:, None], found.labels[:, None]], dim=1),
        gaps,
    )
    logits = ours.roi_head._mask_forward(maps, bbox2roi([got.bboxes]))
    logits = logits["mask_preds"] if isinstance(logits, dict) else logits
    masks = logits[torch.arange(len(logits)), got.labels].sigmoid()
    assert found.masks is not None
    assert masks.std() > 0.1
    close(masks[order], found.masks, gaps)
    print(f"largest difference: {max(gaps):.1e} of the largest value of its kind")  # pytest -rP


def matched(got: Tensor, expected: Tensor, gaps: list[float]) -> Tensor:
    """Place in ``got`` of each row of ``expected``: both rank, but neighbors may nearly tie."""
    assert got.shape == expected.shape
    distance = (got[:, None] - expected).abs().amax(dim=2)
    order = distance.argmin(dim=0)
    close(got[order], expected, gaps)
    close(expected[distance.argmin(dim=1)], got, gaps)
    return order


def close(got: Tensor, expected: Tensor, gaps: list[float]) -> None:
    """Compare, and note the largest difference in units of the largest expected value."""
    scale = expected.abs().max()
    gaps.append(float((got - expected).abs().max() / scale))
    torch.testing.assert_close(got / scale, expected / scale, **TOLERANCE)
