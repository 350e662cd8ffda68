"""The cascade of detectron2: averages, gradients, the one mask head, maskness, a whole model."""

from pathlib import Path
from typing import Any

import mmdet  # noqa: F401 - fills its registries
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from cropr_mm.heads.cascade_roi_head import SharedMaskCascadeRoIHead
from cropr_mm.heads.mask_head import ConvUpsampleMaskHead, maskness
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.targets import MultiLabelTarget

CONFIG = Path(__file__).parents[2] / "configs/cropr_eva02_cascade_coco.py"
CLASSES, CHANNELS, SIZE = 3, 8, 64
META = dict(
    img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0)
)
BOXES = [[4, 4, 30, 30], [5, 6, 32, 28], [20, 10, 60, 50], [0, 0, 63, 63], [40, 40, 60, 62]]
SMALL = dict(
    in_channels=CHANNELS,
    conv_out_channels=CHANNELS,
    feat_channels=CHANNELS,
    out_channels=CHANNELS,
    fc_out_channels=2 * CHANNELS,
    num_classes=CLASSES,
)


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    init_default_scope("mmdet")


def shrink(cfg: Any) -> None:
    """Set all channels and classes below a config to small numbers."""
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, dict | list | tuple):
            shrink(value)
    if isinstance(cfg, dict):
        cfg.update({key: value for key, value in SMALL.items() if key in cfg})


def tiny_model() -> Any:
    """The shipped Cropr config on images of 64 pixels, with few narrow layers."""
    model = Config.fromfile(CONFIG).model
    shrink(model)
    model.neck.in_channels = 16
    model.data_preprocessor.pad_size_divisor = SIZE
    model.backbone.update(
        arch=dict(embed_dim=16, depth=4, num_heads=2, rope="eva"),
        img_size=SIZE,
        patch_size=8,
        window_size=4,
        global_block_indexes=[3],
        drop_path_rate=0.0,
    )
    model.backbone.schedule.blocks = [1]
    for part in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        part.update(nms_pre=50, max_per_img=8)
    return model


def roi_head(**changes: Any) -> SharedMaskCascadeRoIHead:
    """The RoI head alone, with predictors that tell regions apart."""
    model = tiny_model()
    for key, value in changes.items():
        model.test_cfg.rcnn[key] = value
    torch.manual_seed(0)
    head = MODELS.build(
        {**model.roi_head, "train_cfg": model.train_cfg.rcnn, "test_cfg": model.test_cfg.rcnn}
    )
    head.init_weights()
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    return head


def maps() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(2, CHANNELS, side, side, generator=generator, requires_grad=True)
        for side in (16, 8, 4, 2)
    )


def proposals() -> list[InstanceData]:
    return [InstanceData(bboxes=torch.tensor(BOXES, dtype=torch.float32)) for _ in range(2)]


def samples(with_masks: bool = True) -> list[DetDataSample]:
    masks = np.zeros((2, SIZE, SIZE), dtype=np.uint8)
    masks[0, 5:30, 5:30] = masks[1, 12:48, 22:58] = 1
    truth = InstanceData(
        bboxes=torch.tensor([[5.0, 5, 30, 30], [22, 12, 58, 48]]), labels=torch.tensor([0, 2])
    )
    if with_masks:
        truth.masks = BitmapMasks(masks, SIZE, SIZE)
    sample = DetDataSample(metainfo=META, gt_instances=truth)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return [sample, sample.clone()]


def losses(head: nn.Module, x: tuple[Tensor, ...]) -> dict[str, Tensor]:
    torch.manual_seed(2)  # the sampler's
    return head.loss(x, proposals(), samples())


def gradients(head: nn.Module, prefix: str) -> tuple[list[Tensor], list[Tensor]]:
    """Of the losses that start with a prefix: by map, and by parameter of the box heads."""
    x = maps()
    total = sum(v for k, v in losses(head, x).items() if k.startswith(prefix) and "loss" in k)
    wanted = [*x, *head.bbox_head.parameters()]
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    filled = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]
    return filled[: len(x)], filled[len(x) :]


BOX_LOSSES = [f"s{stage}.{loss}" for stage in range(3) for loss in ("loss_cls", "loss_bbox")]


@pytest.mark.parametrize(
    ("loss", "divisor"), [*((loss, 3) for loss in BOX_LOSSES), ("s0.loss_mask", 1)]
)
def test_box_losses_reach_the_maps_at_a_third_and_the_heads_in_full(
    loss: str, divisor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = roi_head()
    on_maps, on_heads = gradients(head, loss)
    monkeypatch.setattr("cropr_mm.heads.cascade_roi_head._ScaledGradient.apply", lambda x, _: x)
    plain_maps, plain_heads = gradients(head, loss)
    assert sum(float(g.abs().sum()) for g in plain_maps) > 0
    torch.testing.assert_close([divisor * g for g in on_maps], plain_maps)
    torch.testing.assert_close(on_heads, plain_heads)


def test_one_mask_head_learns_from_the_first_stage() -> None:
    head = roi_head()
    seen = []
    head.mask_head.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    found = losses(head, maps())
    assert isinstance(head.mask_head, ConvUpsampleMaskHead)
    assert [key for key in found if "mask" in key] == ["s0.loss_mask"]
    # Two boxes of the ground truth per image, and the proposals that overlap one by half.
    assert seen == [2 * (2 + 3)]
    found["s0.loss_mask"].backward()
    assert all(p.grad.abs().sum() > 0 for p in head.mask_head.parameters())


def test_later_stages_see_every_box_of_the_one_before() -> None:
    head = roi_head()
    seen = []
    for box_head in head.bbox_head:
        box_head.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    losses(head, maps())
    assert seen == [2 * (len(BOXES) + 2)] * 3  # proposals and ground truth


def test_probabilities_are_averaged_and_boxes_are_those_of_the_last_stage() -> None:
    head = roi_head(score_thr=0.0, nms=dict(type="nms", iou_threshold=1.0), max_per_img=1000)
    head.eval()
    x = tuple(level[:1].detach() for level in maps())
    scores, boxes = [], torch.tensor(BOXES, dtype=torch.float32)
    for stage in range(3):
        regions = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
        logits, deltas = head.bbox_head[stage](head.bbox_roi_extractor[stage](x, regions))
        scores.append(logits.softmax(dim=1)[:, :-1])
        boxes = head.bbox_head[stage].bbox_coder.decode(boxes, deltas, max_shape=(SIZE, SIZE))
    mean = sum(scores) / 3
    assert (mean - scores[2]).abs().max() > 1e-3
    (found,) = head.predict_bbox(x, [META], proposals()[:1], head.test_cfg)
    for label in range(CLASSES):
        order = mean[:, label].argsort(descending=True)
        mine = found[found.labels == label]
        torch.testing.assert_close(mine.scores, mean[order, label])
        torch.testing.assert_close(mine.bboxes, boxes[order])


def test_soft_suppression_of_the_test_settings_equals_that_of_mmcv() -> None:
    x = tuple(level.detach() for level in maps())
    found = []
    for kind in ("cropr_mm.soft_nms", "soft_nms"):
        head = roi_head(nms=dict(type=kind, iou_threshold=0.3), max_per_img=7).eval()
        found.append(head.predict_bbox(x, [META] * 2, proposals(), head.test_cfg))
    for ours, theirs in zip(*found, strict=True):
        assert len(ours) == 7
        torch.testing.assert_close(ours.scores, theirs.scores)
        assert torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes)


def test_score_threshold_comes_before_soft_suppression() -> None:
    x = tuple(level.detach() for level in maps())
    head = roi_head().eval()
    with torch.no_grad():
        everything = head.predict_bbox(x, [META] * 2, proposals(), head.test_cfg)
    best = max(float(result.scores.max()) for result in everything)
    head.test_cfg.score_thr = best - 1e-6
    found = head.predict_bbox(x, [META] * 2, proposals(), head.test_cfg)
    assert sum(len(result) for result in found) == 1


def test_maskness_by_hand() -> None:
    masks = torch.tensor([[[0.9, 0.5], [0.6, 0.1]], [[0.5, 0.2], [0, 0.5]], [[0, 0.8], [0, 0]]])
    assert maskness(masks, 0.5).tolist() == pytest.approx([0.75, 0.0, 0.8])  # nothing above: 0


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_maskness_changes_the_score_of_masks_only(class_agnostic: bool, activated: bool) -> None:
    head = ConvUpsampleMaskHead(num_classes=CLASSES, class_agnostic=class_agnostic)
    channels = 1 if class_agnostic else CLASSES
    grid = torch.full((2, channels, 28, 28), -9.0)
    grid[0, -1, :14] = 1.0  # half of the mask of class 2, or of the only one
    results = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 28, 28]] * 2),
        labels=torch.tensor([2, 0]),
        scores=torch.tensor([0.5, 0.4]),
    )
    cfg = Config(dict(mask_thr_binary=0.5, maskness_thr=0.5))
    (found,) = head.predict_by_feat(
        [grid.sigmoid() if activated else grid], [results], [META], cfg, activate_map=activated
    )
    expected = [0.5 * float(torch.tensor(1.0).sigmoid()), 0.0]
    assert found.mask_scores.tolist() == pytest.approx(expected)
    assert found.scores.tolist() == pytest.approx([0.5, 0.4])
    assert found.masks[0, :14, :28].all()
    assert not found.masks[1].any()


def test_initial_weights_are_those_of_detectron2() -> None:
    model = tiny_model()
    for part in (*model.roi_head.bbox_head, model.roi_head.mask_head):
        part.update(conv_out_channels=64, num_classes=80)
    for part in model.roi_head.bbox_head:
        part.fc_out_channels = 256
    torch.manual_seed(0)
    head = MODELS.build({**model.roi_head, "train_cfg": None, "test_cfg": None})
    head.init_weights()
    for box_head in head.bbox_head:
        conv, fc = box_head.shared_convs[1].conv, box_head.shared_fcs[0]
        assert conv.bias is None
        assert float(conv.weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
        assert float(fc.weight.abs().max()) == pytest.approx((3 / (64 * 49)) ** 0.5, rel=0.01)
        assert float(box_head.fc_cls.weight.std()) == pytest.approx(0.01, rel=0.03)
        assert float(box_head.fc_reg.weight.std()) == pytest.approx(0.001, rel=0.1)
    masks = head.mask_head
    assert float(masks.conv_logits.weight.std()) == pytest.approx(0.001, rel=0.05)
    assert float(masks.upsample.weight.std()) == pytest.approx((2 / (64 * 4)) ** 0.5, rel=0.03)
    biases = [p for name, p in head.named_parameters() if name.endswith("bias")]
    assert all(float(bias.abs().max()) == 0 for bias in biases)
    norms = [m for m in head.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 4 * 4
    assert all(norm.eps == 1e-6 and bool((norm.weight == 1).all()) for norm in norms)


def test_whole_model_trains_with_auxiliary_losses_and_predicts() -> None:
    torch.manual_seed(0)
    model = MODELS.build(tiny_model())
    model.init_weights()
    listener = AuxiliaryListener(model, MultiLabelTarget(CLASSES), 1.0)
    images = dict(inputs=[torch.randint(0, 255, (3, SIZE, SIZE)).byte()] * 2)
    data = model.data_preprocessor({**images, "data_samples": samples()}, training=True)
    found = model.train()(**data, mode="loss")
    assert "loss_cropr_b01" in found
    total = sum(
        sum(value) if isinstance(value, list) else value
        for key, value in found.items()
        if "loss" in key
    )
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    listener.remove()

    data = model.data_preprocessor({**images, "data_samples": samples()}, training=False)
    with torch.no_grad():
        (first, _) = model.eval()(**data, mode="predict")
        raw = model(**data, mode="tensor")
    predicted = first.pred_instances
    assert 0 < len(predicted) <= 100
    assert predicted.masks.shape == (len(predicted), SIZE, SIZE)
    assert predicted.mask_scores.shape == (len(predicted),)
    assert bool((predicted.mask_scores <= predicted.scores).all())
    assert bool((predicted.scores[:-1] >= predicted.scores[1:]).all())
    assert [len(images) for images in raw[0]] == [2, 2, 2]


def test_images_without_proposals_give_nothing() -> None:
    head = roi_head().eval()
    empty = [InstanceData(bboxes=torch.zeros(0, 4)), proposals()[0]]
    with torch.no_grad():
        results = head.predict(maps(), empty, samples())
        nothing = head.predict(maps(), empty[:1] * 2, samples())
    assert len(results[0]) == 0 < len(results[1])
    assert [len(result) for result in nothing] == [0, 0]
    for one, other in zip(nothing, results, strict=True):
        assert {k: (v.dtype, v.shape[1:]) for k, v in one.items()} == {
            k: (v.dtype, v.shape[1:]) for k, v in other.items()
        }
    assert "mask_scores" in nothing[0]


def test_numbers_that_are_not_finite_are_no_detections() -> None:
    x = tuple(level.detach() for level in maps())
    head = roi_head().eval()
    odd = proposals()
    odd[0].bboxes[1, 2] = float("nan")
    results = head.predict_bbox(x, [META] * 2, odd, head.test_cfg)
    kept = proposals()
    kept[0] = kept[0][[0, 2, 3, 4]]
    expected = head.predict_bbox(x, [META] * 2, kept, head.test_cfg)
    assert len(results[0]) > 0
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one.bboxes, other.bboxes)
        torch.testing.assert_close(one.scores, other.scores)


def test_empty_boxes_do_not_reach_the_next_stage() -> None:
    head = roi_head()
    # The first stage moves every box by ten widths to the right: out of the image, but for gt.
    nn.init.zeros_(head.bbox_head[0].fc_reg.weight)
    head.bbox_head[0].fc_reg.bias.data = torch.tensor([1000.0, 0, 0, 0])
    seen = []
    for box_head in head.bbox_head:
        box_head.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    losses(head, maps())
    assert seen == [2 * (len(BOXES) + 2), 0, 0]


def test_every_stage_has_its_losses_without_any_region() -> None:
    head = roi_head()
    whole = losses(head, maps())
    data = samples()
    for sample in data:
        sample.gt_instances = sample.gt_instances[:0]
    empty = [InstanceData(bboxes=torch.zeros(0, 4)) for _ in range(2)]
    found = head.loss(maps(), empty, data)
    assert found.keys() == whole.keys()
    assert all(float(value) == 0 for value in found.values())
    sum(value for key, value in found.items() if "loss" in key).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("nms", "message"),
    [
        (dict(iou_threshold=0.6, iou_thr=0.5), "unexpected keyword argument 'iou_thr'"),
        (dict(), "missing 1 required positional argument: 'iou_threshold'"),
        (dict(iou_threshold=6), r"in \[0, 1\]"),
    ],
)
def test_settings_of_soft_suppression_are_tried_when_the_head_is_built(
    nms: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        roi_head(nms=dict(type="cropr_mm.soft_nms", **nms))


@pytest.mark.parametrize("num_empty", [1, 2])
def test_images_without_objects_train_every_parameter(num_empty: int) -> None:
    head = roi_head()
    data = samples()
    for sample in data[:num_empty]:
        sample.gt_instances = sample.gt_instances[:0]
    found = head.loss(maps(), proposals(), data)
    assert bool(found["s0.loss_mask"] > 0) == (num_empty == 1)
    assert all(bool(value.isfinite()) for value in found.values())
    sum(value for key, value in found.items() if "loss" in key).backward()
    # Data parallelism waits for the gradient of every parameter.
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_missing_masks_are_named() -> None:
    with pytest.raises(ValueError, match="with_mask=True"):
        roi_head().loss(maps(), proposals(), samples(with_masks=False))


@pytest.mark.parametrize(
    "changes",
    [
        dict(reg_class_agnostic=False),
        dict(loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True)),
        dict(loss_cls=dict(type="SeesawLoss", num_classes=CLASSES)),
    ],
)
def test_box_heads_that_cannot_be_averaged_are_refused(changes: dict) -> None:
    cfg = tiny_model().roi_head
    cfg.bbox_head[1].update(changes)
    with pytest.raises(ValueError, match=r"softmax over classes, got .* in stage 1"):
        MODELS.build({**cfg, "train_cfg": None, "test_cfg": None})
