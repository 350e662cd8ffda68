"""Semantic segmentation with mmseg: its inference modes with pruning, head and one-shot test."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from shipped_configs import config_file
from torch import Tensor, nn

from cropr_mm.build import build_model
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.targets import PatchLabelTarget

pytest.importorskip("mmseg.models")
from mmseg.structures import SegDataSample

NUM_CLASSES = 5


def segmenter(test_cfg: dict | None = None, **changes: Any) -> nn.Module:
    """The shipped linear Segmenter on a small encoder of 64 pixels and 8-pixel patches."""
    cfg = Config.fromfile(config_file("cropr_eva02_segmenter_ade20k")).model
    cfg.backbone.update(
        arch=dict(embed_dim=16, depth=5, num_heads=2, rope="eva"), img_size=64, patch_size=8
    )
    cfg.backbone.drop_path_rate = 0.1
    cfg.backbone.reducer.update(num_queries=(8, 8), num_classes=NUM_CLASSES)
    cfg.backbone.schedule.rate = 15
    cfg.backbone.update(changes)
    cfg.decode_head.update(in_channels=16, channels=16, num_classes=NUM_CLASSES)
    cfg.data_preprocessor.update(size=(64, 64), test_cfg=dict(size=(64, 64)))
    cfg.test_cfg.update(test_cfg or {})
    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.eval()


def sample(height: int, width: int, original: tuple[int, int] | None = None) -> SegDataSample:
    meta = dict(ori_shape=original or (height, width), img_shape=(height, width))
    out = SegDataSample(metainfo=meta)
    labels = torch.randint(0, NUM_CLASSES, (1, height, width))
    out.gt_sem_seg = PixelData(data=labels)
    return out


def run(model: nn.Module, image: Tensor, original: tuple[int, int] | None = None) -> Tensor:
    """Logits of one image (3, H, W), as a test loop gets them."""
    data = dict(inputs=[image], data_samples=[sample(*image.shape[-2:], original)])
    with torch.no_grad():
        (out,) = model.test_step(data)
    return out.seg_logits.data


def kept(model: nn.Module) -> list[int]:
    """Tokens that entered the last block but one, call by call."""
    counts: list[int] = []
    model.backbone.blocks[-2].register_forward_hook(
        lambda module, args, output: counts.append(args[0].shape[1])
    )
    return counts


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def test_one_shot_pads_and_cuts_as_the_released_code() -> None:
    """Pad right and below by 0 after normalization; upsample, cut, and then to the original."""
    model = segmenter()
    pixels = image(48, 64)
    logits = run(model, pixels, original=(96, 128))

    padded = torch.zeros(1, 3, 64, 64)
    padded[0, :, :48] = (pixels.flip(0).float() - 127.5) / 127.5
    with torch.no_grad():
        x = model.decode_head.conv_seg(model.backbone(padded)[0])
        x = F.interpolate(x, size=(64, 64), mode="bilinear")[:, :, :48]
        expected = F.interpolate(x, size=(96, 128), mode="bilinear")[0]
    torch.testing.assert_close(logits, expected)


def test_whole_mode_prunes_and_gives_every_pixel_a_class() -> None:
    model = segmenter()
    counts = kept(model)
    assert run(model, image(64, 64)).shape == (NUM_CLASSES, 64, 64)
    assert counts == [64 + 1 - 1 - 3 * 15]


def test_slide_mode_prunes_each_window_apart() -> None:
    model = segmenter(dict(mode="slide", crop_size=(64, 64), stride=(32, 32)))
    model.data_preprocessor.test_cfg = None
    counts = kept(model)
    pixels = image(64, 100)
    logits = run(model, pixels)
    assert counts == [64 + 1 - 1 - 3 * 15] * 3

    expected, times = torch.zeros(NUM_CLASSES, 64, 100), torch.zeros(100)
    for left in (0, 32, 36):  # the last window is pushed back into the image
        crop = slice(left, left + 64)
        expected[:, :, crop] += run(model, pixels[:, :, crop])
        times[crop] += 1
    torch.testing.assert_close(logits, expected / times)


def test_whole_mode_takes_other_sizes_where_padding_makes_whole_patches() -> None:
    model = segmenter()
    model.data_preprocessor.test_cfg = dict(size_divisor=8)
    counts = kept(model)
    assert run(model, image(70, 90)).shape == (NUM_CLASSES, 70, 90)
    assert counts == [9 * 12 + 1 - 1 - 3 * 15]


def test_head_is_one_linear_layer_with_the_published_start() -> None:
    head = segmenter().decode_head
    parameters = dict(head.named_parameters())
    assert set(parameters) == {"conv_seg.weight", "conv_seg.bias"}
    assert parameters["conv_seg.weight"].shape == (NUM_CLASSES, 16, 1, 1)
    assert parameters["conv_seg.weight"].std().item() == pytest.approx(2e-5, rel=0.3)
    assert not parameters["conv_seg.bias"].any()
    norms = [m for m in segmenter().backbone.children() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 1, "the last norm of the encoder"


def loss(model: nn.Module, samples: list[SegDataSample]) -> dict[str, Tensor]:
    images = [image(64, 64) for _ in samples]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    return model(**data, mode="loss")


def test_main_loss_is_the_mean_over_pixels_with_a_class() -> None:
    model = segmenter(reducer=None, schedule=None, fusion=None)
    one = sample(64, 64)
    one.gt_sem_seg.data[:, :40] = 255
    labels = one.gt_sem_seg.data.clone()
    value = loss(model, [one])["decode.loss_ce"]
    inputs = model.data_preprocessor(dict(inputs=[image(64, 64)], data_samples=[one]), True)
    logits = model.decode_head.conv_seg(model.backbone(inputs["inputs"])[0])
    logits = F.interpolate(logits, size=(64, 64), mode="bilinear")
    torch.testing.assert_close(value, F.cross_entropy(logits, labels, ignore_index=255))


def test_images_without_any_class_train_to_nothing() -> None:
    model = segmenter().train()
    AuxiliaryListener(model, PatchLabelTarget(NUM_CLASSES, 8), 1.0)
    empty = sample(64, 64)
    empty.gt_sem_seg.data.fill_(255)
    losses = loss(model, [empty])
    values = {name: value for name, value in losses.items() if "loss" in name}
    assert len(values) == 1 + 3
    sum(values.values()).backward()
    assert all(value.item() == 0 for value in values.values())
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_mask_of_another_size_than_its_image_is_named() -> None:
    model = segmenter().train()
    AuxiliaryListener(model, PatchLabelTarget(NUM_CLASSES, 8), 1.0)
    with pytest.raises(ValueError, match=r"of the image's size \(64, 64\), .* got \(48, 64\)"):
        loss(model, [sample(48, 64)])


def test_camvid_config_prunes_most_tokens() -> None:
    backbone = build_model(Config.fromfile(config_file("cropr_tiny_segmenter_camvid")), "meta")
    counts = backbone.backbone.tokens_per_block()
    assert counts[0] == counts[-1] == 300
    assert 1 - counts[-2] / 300 == pytest.approx(0.86, abs=0.01)
