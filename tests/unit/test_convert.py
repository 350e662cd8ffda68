"""Published files of every source become ours, and files that do not fit are refused."""

import pickle
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401 - fills its registries
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.config import Config
from shipped_configs import config_file
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from cropr_mm.backbones import CroprViT
from cropr_mm.build import build_model
from cropr_mm.checkpoints import CheckpointError, load_backbone, safe_load
from cropr_mm.checkpoints.published import SOURCES, convert
from cropr_mm.engine.convert import convert_checkpoint, fit
from cropr_mm.engine.convert_encoder import convert_encoder

sys.path.append(str(Path(__file__).parents[1] / "equivalence"))
from naive_detectron2 import NaiveDetector, Settings
from test_detectron2 import small_config

SMALL = Settings(depth=2, global_blocks=(1,), img_size=64, window_size=2, pretrain_grid=3)
VIT = SMALL._replace(eva=False, cascade=False, mlp_ratio=4.0)
FULL = dict(channels=256, fc_dim=1024, num_classes=80, pretrain_grid=14)
LARGE = Settings(
    **FULL,
    img_size=1536,
    embed_dim=1024,
    depth=24,
    num_heads=16,
    window_size=16,
    global_blocks=tuple(range(2, 24, 3)),
)
BASE = LARGE._replace(
    img_size=1024, embed_dim=768, depth=12, num_heads=12, global_blocks=(2, 5, 8, 11)
)
Weights = dict[str, Tensor]


def weights_of(settings: Settings, device: str = "cpu") -> Weights:
    with torch.device(device):
        return NaiveDetector(settings).state_dict()


def fitted(config: str, settings: Settings, source: str) -> tuple[set[str], set[str], list[str]]:
    """Names of a shipped model, names that a full-size file gives, and the notes."""
    model = build_model(Config.fromfile(config_file(config)), "meta")
    converted = convert(weights_of(settings, "meta"), source, model.backbone.grid)
    result = fit(converted, model, model.backbone, source)
    return set(model.state_dict()), set(result.weights), result.notes


@pytest.mark.parametrize(
    ("config", "settings", "source"),
    [
        ("eva02_cascade_coco", LARGE, "eva02_det"),
        ("eva02b_cascade_coco", BASE, "eva02_det"),
        (
            "vitb_maskrcnn_coco",
            BASE._replace(eva=False, cascade=False, mlp_ratio=4.0, window_size=14),
            "vitdet",
        ),
    ],
)
def test_full_size_names_and_shapes_are_those_of_our_configs(
    config: str, settings: Settings, source: str
) -> None:
    wanted, got, notes = fitted(f"unpruned_{config}", settings, source)
    assert got == wanted
    assert not any("not in the file" in note or "windows have" in note for note in notes)
    wanted, got, _ = fitted(f"cropr_{config}", settings, source)
    assert got < wanted
    assert all(name.startswith("backbone.reducers.") for name in wanted - got)


def test_objects365_gives_everything_but_classes_and_masks() -> None:
    o365 = LARGE._replace(num_classes=365, masks=False)
    wanted, got, notes = fitted("unpruned_eva02_cascade_coco", o365, "eva02_det")
    classes = {f"roi_head.bbox_head.{i}.fc_cls.{w}" for i in range(3) for w in ("weight", "bias")}
    masks = {name for name in wanted if name.startswith("roi_head.mask_head.")}
    assert len(masks) == 16
    assert wanted - got == classes | masks
    assert got <= wanted
    (note,) = (note for note in notes if "another number of classes" in note)
    assert all(name in note for name in classes)
    assert "not in the file, 16 tensors of the model: roi_head.mask_head" in notes


@pytest.mark.parametrize("cascade", [True, False])
def test_layers_of_other_classes_are_left_out_by_name(cascade: bool) -> None:
    settings = SMALL._replace(cascade=cascade, num_classes=5)
    model = build_model(small_config(SMALL._replace(cascade=cascade)), "meta")
    converted = convert(weights_of(settings), "eva02_det", model.backbone.grid)
    result = fit(converted, model, model.backbone, "eva02_det")
    gone = {name.split(".")[-2] for name in converted.weights.keys() - result.weights.keys()}
    assert gone == {"fc_cls", "conv_logits"} | (set() if cascade else {"fc_reg"})


def test_file_without_config_keeps_its_own_image_size(tmp_path: Path) -> None:
    torch.save(dict(model=weights_of(SMALL)), tmp_path / "det.pth")
    report = convert_checkpoint(tmp_path / "det.pth", tmp_path / "ours.pth", "eva02_det")
    assert "trained with 4x4 patches, windows of 2x2" in report.notes
    assert any("rope" in note and "left out" in note for note in report.notes)
    content = safe_load(tmp_path / "ours.pth")
    assert content["meta"]["cfg"] == "model = {'backbone': {'img_size': (64, 64)}}\n"
    model = build_model(small_config(SMALL))
    model.load_state_dict(content["state_dict"], strict=True)
    load_backbone(model.backbone, tmp_path / "ours.pth", "backbone.")


@pytest.mark.parametrize("settings", [SMALL, VIT])
def test_config_of_another_image_size_resamples_as_the_detector_does(
    settings: Settings, tmp_path: Path
) -> None:
    source = "eva02_det" if settings.eva else "vitdet"
    weights = weights_of(settings)
    weights["backbone.net.pos_embed"].normal_()
    for name in weights:
        if "rel_pos" in name:
            weights[name].normal_()
    torch.save(weights, tmp_path / "det.pth")
    cfg = small_config(settings)
    cfg.model.backbone.img_size = (96, 128)
    report = convert_checkpoint(tmp_path / "det.pth", tmp_path / "ours.pth", source, cfg)
    ours = safe_load(tmp_path / "ours.pth")["state_dict"]
    table = weights["backbone.net.pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (3, 3))
    table = F.interpolate(table, (6, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(ours["backbone.pos_embed"], table.flatten(2).transpose(1, 2))
    assert "pos_embed: 10 rows resampled to 6x8 patches" in report.notes
    if not settings.eva:
        name = "blocks.1.attn.rel_pos_w"
        old = weights[f"backbone.net.{name}"].t()[None]
        expected = F.interpolate(old, 15, mode="linear")[0].t()
        torch.testing.assert_close(ours[f"backbone.{name}"], expected)


def test_averaged_weights_are_taken_first_and_any_entry_on_demand(tmp_path: Path) -> None:
    plain, averaged = weights_of(SMALL), weights_of(SMALL)
    # Averages hold every buffer once, also those that a state dict does not have.
    averaged = {n: v for n, v in averaged.items() if ".attn.rope." not in n}
    averaged |= dict(pixel_mean=torch.ones(3, 1, 1), pixel_std=torch.ones(3, 1, 1))
    averaged["proposal_generator.anchor_generator.cell_anchors.0"] = torch.ones(3, 4)
    averaged["roi_heads.box_predictor.0.fed_loss_cls_weights"] = torch.ones(3)
    trainer = dict(iteration=3, hooks=dict(LRScheduler=dict(last_epoch=3)))
    torch.save(
        dict(model=plain, ema_state=averaged, trainer=trainer, iteration=3), tmp_path / "det.pth"
    )
    key = "backbone.norm1.weight".replace("norm1", "blocks.0.norm1")
    plain["backbone.net.blocks.0.norm1.weight"].fill_(7.0)
    torch.save(dict(model=plain, ema_state=averaged, iteration=3), tmp_path / "det.pth")
    for entry, taken, value in ((None, "ema_state", 1.0), ("model", "model", 7.0)):
        file = tmp_path / f"{taken}.pth"
        report = convert_checkpoint(tmp_path / "det.pth", file, "eva02_det", entry=entry)
        assert report.entry == taken
        assert (safe_load(file)["state_dict"][key] == value).all()


def test_pickles_of_arrays_as_detectron2_publishes_them_convert(tmp_path: Path) -> None:
    weights = weights_of(VIT)
    content = dict(model={n: v.numpy() for n, v in weights.items()}, __author__="Detectron2")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol=2))
    convert_checkpoint(tmp_path / "model.pkl", tmp_path / "ours.pth", "vitdet")
    model = build_model(small_config(VIT))
    model.load_state_dict(safe_load(tmp_path / "ours.pth")["state_dict"], strict=True)
    proj = model.backbone.blocks[1].attn.proj.weight
    assert torch.equal(proj, weights["backbone.net.blocks.1.attn.proj.weight"])


def test_arrays_in_another_byte_order_convert_and_strings_do_not(tmp_path: Path) -> None:
    weights = {n: v.numpy() for n, v in weights_of(VIT).items()}
    name = "backbone.net.blocks.1.attn.proj.weight"
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps({**weights, name: weights[name].astype(">f4")}))
    convert_checkpoint(file, tmp_path / "ours.pth", "vitdet")
    ours = safe_load(tmp_path / "ours.pth")["state_dict"]
    assert torch.equal(ours["backbone.blocks.1.attn.proj.weight"], torch.tensor(weights[name]))
    for value, message in (
        (np.array(["a"]), rf"arrays of numbers .*, got <U1 at {name}"),
        (np.array([None]), "expected a data type of numbers or strings, got 'O8'"),
    ):
        file.write_bytes(pickle.dumps({**weights, name: value}))
        with pytest.raises(CheckpointError, match=message):
            convert_checkpoint(file, tmp_path / "more.pth", "vitdet")


DIMS: dict[str, Any] = dict(embed_dim=32, depth=2, num_heads=2, patch_size=14)
EVA: dict[str, Any] = dict(DIMS, hidden_dim=85, mlp="swiglu", attn_bias="qv", rope="eva")


def random_like(model: nn.Module) -> Weights:
    return {n: torch.randn_like(v) for n, v in model.state_dict().items()}


def eva02_mim(split: bool) -> Weights:
    """A file of EVA-02/asuka: base and large split their products and norm the middle."""
    backbone = CroprViT(dict(EVA, mlp_norm=split), img_size=56)
    out: Weights = dict(mask_token=torch.ones(1, 1, 32), **{"rope.freqs_cos": torch.ones(16, 16)})
    for name, value in random_like(backbone).items():
        if split and name.endswith("attn.qkv.weight"):
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                out[name.replace("qkv", f"{part}_proj")] = chunk
        elif split and ".mlp.fc1." in name:
            for part, chunk in zip(("w1", "w2"), value.chunk(2), strict=True):
                out[name.replace("fc1", part)] = chunk
        else:
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            out[name.replace("mlp.norm", "mlp.ffn_ln")] = value
    for i in range(2):
        out[f"blocks.{i}.attn.rope.freqs_sin"] = torch.ones(16, 16)
    return {**out, "lm_head.weight": torch.ones(5, 32), "lm_head.bias": torch.ones(5)}


def mae() -> Weights:
    """A file of pre-training with its decoder."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, num_classes=0, depth=2, embed_dim=32, num_heads=2
    )
    out = random_like(model)
    out |= {"mask_token": torch.ones(1, 1, 8), "decoder_pos_embed": torch.ones(1, 17, 8)}
    return {
        **out,
        "decoder_blocks.0.norm1.weight": torch.ones(8),
        "decoder_pred.bias": out["norm.bias"],
    }


MAKERS: dict[str, Callable[[], Weights]] = {
    "eva02_mim": lambda: eva02_mim(split=True),
    "eva02_mim-packed": lambda: eva02_mim(split=False),
    "mae": mae,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_encoders_are_what_timm_reads_from_the_same_file(kind: str, tmp_path: Path) -> None:
    raw = MAKERS[kind]()
    torch.save(dict(model=raw, args=Namespace(lr=1e-3)), tmp_path / "raw.pth")
    source = kind.split("-")[0]
    convert_checkpoint(tmp_path / "raw.pth", tmp_path / "ours.pth", source)
    arch = dict(DIMS, patch_size=16)
    if source != "mae":
        arch = dict(EVA, mlp_norm=kind == "eva02_mim")
    for img_size in (64, (32, 128), (32, 96)):  # the same grid, one with as many patches, another
        options = dict(img_size=img_size, patch_size=16, with_cls_token=False, final_norm=False)
        ours, timms = CroprViT(arch, **options), CroprViT(arch, **options)
        load_backbone(ours, tmp_path / "ours.pth", "backbone.")
        load_backbone(timms, {n: v for n, v in raw.items() if "decoder" not in n})
        for name, value in timms.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def test_encoder_fits_the_detector_of_a_config(tmp_path: Path) -> None:
    raw = eva02_mim(split=True)
    torch.save(raw, tmp_path / "raw.pth")
    settings = SMALL._replace(mlp_ratio=85 / 32)
    cfg = small_config(settings)
    report = convert_checkpoint(tmp_path / "raw.pth", tmp_path / "ours.pth", "eva02_mim", cfg)
    ours = safe_load(tmp_path / "ours.pth")["state_dict"]
    kernel = ours["backbone.patch_embed.proj.weight"]
    expected = resample_patch_embed(raw["patch_embed.proj.weight"], [16, 16])
    torch.testing.assert_close(kernel, expected)
    assert set(ours) == {n for n in build_model(cfg).state_dict() if n.startswith("backbone.")}
    assert any("the encoder has no cls_token, norm.bias, norm.weight" in n for n in report.notes)
    assert any("roi_head.bbox_head" in n and "not in the file" in n for n in report.notes)


def det(settings: Settings = SMALL) -> Weights:
    return weights_of(settings)


def without(weights: Weights, part: str) -> Weights:
    return {n: v for n, v in weights.items() if part not in n}


@pytest.mark.parametrize(
    ("make", "source", "message"),
    [
        (lambda: det(VIT), "eva02_det", "got a file without its names.*looks like --source vitdet"),
        (det, "mae", "expected a masked autoencoder.*looks like --source eva02_det"),
        (mae, "eva02_mim", "looks like --source mae"),
        (lambda: eva02_mim(split=False), "vitdet", "looks like --source eva02_mim"),
        (lambda: {"fc.weight": torch.ones(1)}, "mae", "none of cropr, .*vitdet, either"),
        (
            lambda: {"encoder.layer.0.layer_scale1.lambda1": torch.ones(1)},
            "mae",
            r"a DINOv2 encoder of Hugging .* model\.backbone\.init_cfg loads as it is, and",
        ),
        (
            lambda: {"backbone.blocks.0.0.norm1.weight": torch.ones(1)},
            "cropr",
            r"the teacher of .* model\.backbone\.init_cfg loads as it is, and",
        ),
        (
            lambda: {**det(), "backbone.net.blocks.0.attn.extra": torch.ones(1)},
            "eva02_det",
            r"1 of \d+ names are not known there: backbone.net.blocks.0.attn.extra; it is none",
        ),
        (
            lambda: without(det(), "blocks.1.attn.k_proj"),
            "eva02_det",
            r"blocks\.1 is incomplete: expected attn\.k_proj\.weight as in the others, got none",
        ),
        (
            lambda: without(det(), "box_head.0.conv2"),
            "eva02_det",
            "roi_head.bbox_head.0 is incomplete: expected shared_convs.1.conv.weight",
        ),
        (lambda: without(det(), "pos_embed"), "eva02_det", "expected positions, got none"),
        (lambda: without(det(), "rope"), "eva02_det", "size of its images; give --config"),
        (
            lambda: {**det(), "backbone.net.pos_embed": torch.ones(1, 8, 32)},
            "eva02_det",
            "expected rows for a square grid, .*got 8 rows",
        ),
        (
            lambda: {"backbone.blocks.0.norm1.bias": torch.ones(1)},
            "eva02_det",
            "has our names already: use it as load_from",
        ),
        (
            lambda: {**det(), "backbone.net.pos_embed": torch.ones(10)},
            "eva02_det",
            r"pos_embed: expected shape \(1, rows, channels\), got \(10,\)",
        ),
        (lambda: {**mae(), "cls_token": torch.ones(32)}, "mae", r"backbone\.cls_token: .*\(32,\)"),
        (
            lambda: {**det(), "backbone.net.rope_glb.freqs_cos": torch.tensor(1.0)},
            "eva02_det",
            "single numbers at backbone.net.rope_glb.freqs_cos",
        ),
        (
            lambda: {**det(), "backbone.net.blocks.1.attn.k_proj.weight": torch.ones(16, 32)},
            "eva02_det",
            r"one shape for .*, got \(32, 32\), \(16, 32\), \(32, 32\)",
        ),
        (
            lambda: {**det(), "backbone.net.blocks.0.mlp.w2.weight": torch.ones(85, 31)},
            "eva02_det",
            r"one shape for .*fc1_x\.weight, got .*, \(85, 31\)",
        ),
        (lambda: {**mae(), 3: torch.ones(1)}, "mae", "by name, got names like 3"),
        (lambda: dict(model=dict(epoch=3)), "mae", "expected tensors by name, got epoch"),
        (dict, "mae", "expected tensors by name, got none"),
    ],
)
def test_wrong_file_is_named(
    make: Callable[[], dict], source: str, message: str, tmp_path: Path
) -> None:
    torch.save(make(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(tmp_path / "x.pth", tmp_path / "y.pth", source)
    assert str(error.value).startswith(f"{tmp_path}/x.pth: ")
    assert len(str(error.value)) < 700
    assert not (tmp_path / "y.pth").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SMALL._replace(depth=3), r"- +backbone\.blocks\.2\.attn"),
        (SMALL._replace(depth=1), r"backbone\.blocks\.1\.attn\.proj\.bias +-"),
        (SMALL._replace(embed_dim=64), r"expected \(32,\), got \(64,\)"),
        (SMALL._replace(fc_dim=32), r"shared_fcs\.0\.bias: expected \(24,\), got \(32,\)"),
        (
            SMALL._replace(cascade=False),
            r"roi_head\.bbox_head\.0\.\S+ +roi_head\.bbox_head\.fc_cls",
        ),
    ],
)
def test_file_of_another_size_is_compared_with_the_config(
    settings: Settings, message: str, tmp_path: Path
) -> None:
    torch.save(det(settings), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(tmp_path / "x.pth", tmp_path / "y.pth", "eva02_det", small_config(SMALL))
    assert str(error.value).startswith(f"{tmp_path}/x.pth: the file does not fit the model")
    assert len(str(error.value).splitlines()) < 12


def test_other_windows_are_told(tmp_path: Path) -> None:
    torch.save(det(SMALL._replace(window_size=4)), tmp_path / "x.pth")
    report = convert_checkpoint(
        tmp_path / "x.pth", tmp_path / "y.pth", "eva02_det", small_config(SMALL)
    )
    assert "trained with 4x4 patches, windows of 4x4" in report.notes
    assert "the model's windows have another size, 2" in report.notes


def test_places_that_cannot_be_written_are_named_before_anything_is_read(tmp_path: Path) -> None:
    absent, there = tmp_path / "x.pth", tmp_path / "there.pth"
    there.touch()
    for dst, message in (
        (there, f"but {there} exists"),
        (tmp_path / "no" / "y.pth", f"existing folder for the result, got {tmp_path}/no"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(absent, dst, "mae")
    with pytest.raises(ValueError, match=r"a source out of cropr, .*got 'eva'"):
        convert_checkpoint(absent, tmp_path / "y.pth", "eva")
    with pytest.raises(FileNotFoundError, match=r"x\.pth"):
        convert_checkpoint(absent, tmp_path / "y.pth", "mae")
    with pytest.raises(ValueError, match=r"there\.pth: not a readable checkpoint"):
        convert_checkpoint(there, tmp_path / "y.pth", "mae")
    torch.save(dict(model=mae()), absent)
    with pytest.raises(ValueError, match="weights in entry 'ema_state', got entries model"):
        convert_checkpoint(absent, tmp_path / "y.pth", "mae", entry="ema_state")


def test_an_encoder_file_of_any_layout_becomes_one_of_ours(tmp_path: Path) -> None:
    arch = dict(embed_dim=16, depth=2, num_heads=2)
    teacher = CroprViT(arch=arch, img_size=32, patch_size=8)
    chunks = {
        "backbone." + name.replace("blocks.", "blocks.0."): value
        for name, value in teacher.state_dict().items()
    }
    torch.save({"teacher": chunks}, tmp_path / "teacher.pth")
    backbone = dict(
        type="cropr_mm.CroprViT",
        arch=arch,
        img_size=32,
        patch_size=8,
        reducer=dict(type="cropr_mm.Cropr", num_classes=3),
        schedule=dict(type="cropr_mm.ConstantRate", rate=3),
    )
    head = dict(type="LinearClsHead", num_classes=3, in_channels=16)
    model = dict(type="ImageClassifier", backbone=backbone, head=head)
    cfg = Config(dict(default_scope="mmpretrain", model=model))
    report = convert_encoder(tmp_path / "teacher.pth", tmp_path / "ours.pth", cfg)
    assert report.tensors == len(teacher.state_dict())
    other = CroprViT(arch=arch, img_size=32, patch_size=8)
    load_backbone(other, tmp_path / "ours.pth", prefix="backbone.")
    for name, value in teacher.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    with pytest.raises(ValueError, match="expected a new file for the result"):
        convert_encoder(tmp_path / "teacher.pth", tmp_path / "ours.pth", cfg)


@pytest.mark.parametrize("name", SOURCES)
def test_first_rule_decides_and_no_name_of_ours_has_two_origins(name: str) -> None:
    rules = [rule for rule, _ in SOURCES[name].rules]
    assert len(rules) == len(set(rules))
