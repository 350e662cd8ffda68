"""Files of MAE in a classifier: other image sizes, the norm after pooling, a new head."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cropr_mm.checkpoints import load_backbone
from cropr_mm.engine.checkpoint_io import drop_token_norm
from cropr_mm.engine.convert import convert_checkpoint
from cropr_mm.engine.preflight import check_encoder
from cropr_mm.reducers import Cropr

pytest.importorskip("mmpretrain")
DIMS = dict(embed_dim=32, depth=3, num_heads=2)


def mae(num_classes: int) -> nn.Module:
    """Timm's model of 4 x 4 patches; with classes it has a norm after pooling and a head."""
    torch.manual_seed(0)
    pool = dict(global_pool="avg") if num_classes else {}
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, num_classes=num_classes, **DIMS, **pool
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def config(img_size: int, checkpoint: str | None = None, **changes: Any) -> Config:
    start = (
        None
        if checkpoint is None
        else dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone.")
    )
    backbone: dict[str, Any] = dict(
        type="cropr_mm.CroprViT",
        arch=dict(DIMS, patch_size=16),
        img_size=img_size,
        out_type="avg_all",
        init_cfg=start,
    )
    model = dict(
        type="ImageClassifier",
        backbone=backbone | changes,
        head=dict(type="LinearClsHead", num_classes=5, in_channels=32),
    )
    return Config(dict(default_scope="mmpretrain", model=model))


def build(cfg: Config) -> nn.Module:
    init_default_scope("mmpretrain")
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize("img_size", [64, 96, 128])
def test_pre_training_starts_a_pruned_classifier_of_another_size(
    img_size: int, tmp_path: Path
) -> None:
    raw = mae(num_classes=0).state_dict()
    content = raw | {"mask_token": torch.ones(1, 1, 8), "decoder_pred.bias": torch.ones(8)}
    torch.save(dict(model=content), tmp_path / "raw.pth")
    pruning = dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=5),
        schedule=dict(type="cropr_mm.ConstantRate", rate=4),
    )
    cfg = config(img_size, **pruning)
    convert_checkpoint(tmp_path / "raw.pth", tmp_path / "ours.pth", "mae", cfg)

    model = build(config(img_size, str(tmp_path / "ours.pth"), **pruning))

    grid = [img_size // 16] * 2
    wanted = resample_abs_pos_embed(raw["pos_embed"], grid, num_prefix_tokens=1)
    torch.testing.assert_close(model.backbone.pos_embed.data, wanted)
    assert (model.backbone.norm.weight == 1).all(), "a norm of tokens starts no norm of their mean"
    assert not model.backbone.norm.bias.any()
    assert model.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.3), (
        "its own initial values"
    )
    assert all(isinstance(reducer, Cropr) for reducer in model.backbone.reducers.values())
    assert torch.isfinite(model(torch.rand(1, 3, img_size, img_size))).all()

    # The same file as load_from: what is new in the model is no mistake.
    checkpoint = torch.load(tmp_path / "ours.pth", weights_only=False)
    check_encoder(model, checkpoint["state_dict"], "ours.pth", checkpoint)


def test_fine_tuning_gives_the_norm_after_pooling_and_timms_features(tmp_path: Path) -> None:
    theirs = mae(num_classes=7)
    weights = theirs.state_dict()
    assert {"fc_norm.weight", "head.weight"} <= weights.keys()
    torch.save(dict(model=weights), tmp_path / "raw.pth")
    convert_checkpoint(tmp_path / "raw.pth", tmp_path / "ours.pth", "mae")
    image = torch.rand(2, 3, 64, 64)

    def features(out_type: str) -> Tensor:
        model = build(config(64, str(tmp_path / "ours.pth"), out_type=out_type))
        assert model.head.fc.out_features == 5
        return model.extract_feat(image)[0]

    with torch.no_grad():
        tokens = theirs.forward_features(image)
        patches = theirs.forward_head(tokens, pre_logits=True)
        torch.testing.assert_close(features("avg_featmap"), patches, rtol=1e-4, atol=1e-4)
        everything = theirs.fc_norm(tokens.mean(dim=1))
        torch.testing.assert_close(features("avg_all"), everything, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(patches, everything, atol=1e-3)


@pytest.mark.parametrize(
    ("stored", "prefix", "kept"),
    [
        (None, "", False),  # a published encoder
        (None, "backbone.", True),  # bare weights of this model
        ("featmap", "backbone.", False),
        ("avg_all", "backbone.", True),
    ],
)
def test_only_a_norm_of_the_mean_starts_one(
    stored: str | None, prefix: str, kept: bool, tmp_path: Path
) -> None:
    raw = mae(num_classes=0).state_dict()
    content: dict[str, Any] = dict(state_dict={prefix + name: v for name, v in raw.items()})
    if stored is not None:
        content["meta"] = dict(cfg=f"model = dict(backbone=dict(out_type={stored!r}, img_size=64))")
    torch.save(content, tmp_path / "file.pth")

    backbone = build(config(64)).backbone
    load_backbone(backbone, tmp_path / "file.pth", prefix)

    assert torch.equal(backbone.norm.weight.data, raw["norm.weight"]) == kept
    assert torch.equal(backbone.blocks[0].norm1.weight.data, raw["blocks.0.norm1.weight"])

    weights = {f"backbone.{name}": v for name, v in raw.items()}
    drop_token_norm(weights, backbone, "backbone", content)
    assert ("backbone.norm.weight" in weights) == (kept or stored is None)
