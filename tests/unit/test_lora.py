"""Adapters train in the place of the blocks, keep our names, and merge into the weights."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.backbones import lora
from cropr_mm.checkpoints.load import load_backbone
from cropr_mm.export.deploy import deploy_checkpoint
from cropr_mm.optim.layer_decay import LayerDecayConstructor
from cropr_mm.registry import MODELS

PLAIN = dict(embed_dim=32, depth=4, num_heads=2)
EVA = dict(PLAIN, mlp="swiglu", mlp_norm=True, attn_bias="qv", rope="eva")
PRUNED = dict(
    reducer=dict(type="cropr_mm.Cropr", num_classes=3),
    schedule=dict(type="cropr_mm.ConstantRate", rate=3),
    fusion=dict(type="cropr_mm.LastLayerFusion"),
)


@pytest.fixture(scope="module", autouse=True)
def _peft() -> None:
    pytest.importorskip("peft")


def encoder(arch: dict[str, Any] = PLAIN, **options: Any) -> CroprViT:
    return CroprViT(arch=arch, img_size=64, **PRUNED, **options)


def jitter(model: nn.Module) -> None:
    """Adapters begin at zero and would change nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.2)


@pytest.mark.parametrize("arch", [PLAIN, EVA], ids=["plain", "eva"])
def test_merged_equals_unmerged(arch: dict[str, Any]) -> None:
    """In float64: in float32 the order of the sums alone can differ by more than 1e-5."""
    model = encoder(arch, lora=dict(r=4)).eval().double()
    img = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = model(img)[0]
    jitter(model)
    adapted = model(img)[0]
    assert not torch.allclose(adapted, before, atol=1e-2)
    model.switch_to_deploy()
    assert not any("lora" in name or "base_layer" in name for name, _ in model.named_modules())
    torch.testing.assert_close(model(img)[0], adapted, rtol=1e-9, atol=1e-9)


def test_statistics_of_a_frozen_stem_rest() -> None:
    model = CroprViT(arch={**PLAIN, "conv_stem": 8}, img_size=64, lora=dict(r=4)).train()
    before = {name: value.clone() for name, value in model.patch_embed.named_buffers()}
    assert before, "the stem has batch norms"
    model(torch.randn(2, 3, 64, 64))
    for name, value in model.patch_embed.named_buffers():
        assert torch.equal(value, before[name])


def test_names_are_those_of_the_model_without_adapters() -> None:
    plain, adapted = encoder(), encoder(lora=dict(r=4, targets=("qkv", "fc1")))
    names = set(adapted.state_dict())
    assert {name for name in names if ".lora_" not in name} == set(plain.state_dict())
    new = {name.split(".", 2)[2] for name in names if ".lora_" in name}
    assert new == {
        f"{layer}.lora_{half}.weight" for layer in ("attn.qkv", "mlp.fc1") for half in "AB"
    }


def test_weights_of_the_dense_encoder_are_loaded_and_adapters_stay_neutral() -> None:
    dense = CroprViT(arch=EVA, img_size=64).eval()
    model = encoder(EVA, lora=dict(r=4)).eval()
    load_backbone(model, dict(dense.state_dict()))
    for name, value in dense.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    img = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.unpruned()(img)[0], dense(img)[0], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_with_adapters_comes_back(tmp_path: Path) -> None:
    model, other = encoder(lora=dict(r=4)), encoder(lora=dict(r=4))
    jitter(model)
    other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_adapters_reducers_and_heads_train_and_nothing_else() -> None:
    model = nn.ModuleDict(dict(backbone=encoder(EVA, lora=dict(r=4)), head=nn.Linear(32, 3)))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    kinds = ("head.", "backbone.reducers.")
    assert trained == {
        n for n, _ in model.named_parameters() if n.startswith(kinds) or ".lora_" in n
    }
    assert any(".lora_" in name for name in trained)


def test_layer_decay_sees_adapters() -> None:
    model = nn.ModuleDict(dict(backbone=encoder(lora=dict(r=4)), head=nn.Linear(32, 3)))
    build = LayerDecayConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1.0)), dict(decay_rate=0.5)
    )
    groups = build(model).optimizer.param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            block = int(name.split(".")[2])
            assert rates[id(parameter)] == 0.5 ** (4 - block)


def test_deploy_merges_and_writes_the_names_of_the_plain_model(tmp_path: Path) -> None:
    backbone = dict(type="cropr_mm.CroprViT", arch=EVA, img_size=64, out_type="avg_all", **PRUNED)
    head = dict(type="LinearClsHead", num_classes=3, in_channels=32)
    model = dict(type="ImageClassifier", backbone=backbone | dict(lora=dict(r=4)), head=head)
    cfg = Config(dict(default_scope="mmpretrain", model=model))
    from cropr_mm.build import build_model

    trained = build_model(cfg)
    jitter(trained)
    trained.eval()
    torch.save(dict(meta={}, state_dict=trained.state_dict()), tmp_path / "trained.pth")
    deploy_checkpoint(cfg, tmp_path / "trained.pth", tmp_path / "deployed.pth")
    content = torch.load(tmp_path / "deployed.pth", weights_only=True)
    assert "lora" not in content["meta"]["cfg"]
    deployed = MODELS.build(backbone | dict(deploy=True)).eval()
    own = {
        name.removeprefix("backbone."): value
        for name, value in content["state_dict"].items()
        if name.startswith("backbone.")
    }
    deployed.load_state_dict(own, strict=True)
    img = torch.randn(2, 3, 64, 64)
    expected = trained.backbone(img)[0]
    torch.testing.assert_close(deployed(img)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(), "lora expects dict"),
        (dict(r=0), "lora expects dict"),
        (dict(r=4, rank=4), "lora expects dict"),
        (dict(r=True), "lora expects dict"),
        (8, "lora expects dict"),
        (dict(r=4, targets=("norm",)), "list of targets out of"),
        (dict(r=4, targets="qkv"), "list of targets out of .*, got 'qkv'"),
        (dict(r=4, dropout=1.0), "dropout in"),
        (dict(r=4, dropout=None), "dropout in"),
        (dict(r=4, alpha="x"), "alpha > 0"),
    ],
)
def test_wrong_settings_are_named(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(lora=settings)


def test_places_where_adapters_cannot_train_are_named() -> None:
    with pytest.raises(ValueError, match="deploy=True without lora"):
        encoder(lora=dict(r=4), deploy=True)
    with pytest.raises(ValueError, match="frozen_stages=-1"):
        encoder(lora=dict(r=4), frozen_stages=2)


def test_a_missing_peft_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(lora.importlib, "import_module", fail)
    with pytest.raises(ValueError, match=r"pip install 'cropr_mm\[lora\]'") as caught:
        encoder(lora=dict(r=4))
    assert "\n" not in str(caught.value)


def test_mmpretrain_imports_beside_the_packages_of_every_extra() -> None:
    for name in ("peft", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino"):
        importlib.import_module(name)
    models = importlib.import_module("mmpretrain.models")
    assert models.ClsDataPreprocessor
