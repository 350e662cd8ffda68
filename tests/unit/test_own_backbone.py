"""A backbone that somebody else writes: sixty lines, and every method, fusion and tool works."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from mmengine.config import Config
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.find import (
    auxiliary_reducers,
    backbone_class,
    backbone_entry,
    find_backbones,
)
from cropr_mm.build import build_model
from cropr_mm.export.deploy import deploy_checkpoint
from cropr_mm.inspection.token_record import TokenRecorder
from cropr_mm.profiling.complexity import complexity_report
from cropr_mm.registry import MODELS
from cropr_mm.schedules import Schedule, ScheduleSettings
from cropr_mm.structures import Tokens
from cropr_mm.tokens.restore import restore_tokens


class TinyViT(ReducingBackbone):
    """Timm's blocks on the patches of a square image, without a class token."""

    def __init__(
        self,
        img_size: int = 32,
        embed_dim: int = 16,
        depth: int = 4,
        reducer: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        fusion: dict[str, Any] | None = None,
        deploy: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.depth, self.embed_dim, self.num_heads, self.patch_size = depth, embed_dim, 2, 4
        self.patch_embed = PatchEmbed(None, self.patch_size, embed_dim=embed_dim)
        self.grid = (img_size // self.patch_size, img_size // self.patch_size)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, self.grid[0] ** 2, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, self.num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.build_schedule(reducer, schedule, fusion)
        self.build_reducers(reducer, deploy)

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to a map (B, C, h, w) of every token."""
        x = self.patch_embed(img) + self.pos_embed
        index = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        tokens, dropped, _ = self.run_blocks(Tokens(x, index, self.grid), img)
        x = self.norm(restore_tokens(tokens, dropped, None).x)
        return (x.transpose(1, 2).unflatten(2, self.grid).contiguous(),)

    def apply_attention(
        self, block: int, tokens: Tokens, needs: frozenset[str], context: None
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Apply the attention half of a block."""
        layer = self.blocks[block]
        return tokens.replace(x=tokens.x + layer.attn(layer.norm1(tokens.x))), {}

    def apply_mlp(self, block: int, tokens: Tokens, context: None) -> Tokens:
        """Apply the MLP half of a block."""
        layer = self.blocks[block]
        return tokens.replace(x=tokens.x + layer.mlp(layer.norm2(tokens.x)))


class Halves(Schedule):
    """A schedule of one method: half of the tokens go after each of the first blocks."""

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        counts, left = {}, settings.num_patches
        for block in range(settings.last_site + 1):
            left -= int(left // 2 * settings.progress)
            counts[block] = left
        return counts


CROPR = dict(type="cropr_mm.Cropr", num_classes=3)
KEEP = dict(type="cropr_mm.ExplicitTokens", num_keep={0: 30, 1: 9})
LLF = dict(type="cropr_mm.LastLayerFusion")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def img() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def test_without_a_reducer_it_is_the_plain_model(img: Tensor) -> None:
    model = TinyViT().eval()
    x = model.patch_embed(img) + model.pos_embed
    for block in model.blocks:
        x = block(x)
    expected = model.norm(x).transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(model(img)[0], expected)
    assert model.tokens_per_block() == [64] * 4


@pytest.mark.parametrize("name", ["LastLayerFusion", "TokenConcat", "SelfAttentionConcat"])
@pytest.mark.parametrize(
    "reducer", [CROPR, dict(type="cropr_mm.RandomPruner"), dict(type="cropr_mm.VariancePruner")]
)
def test_methods_and_fusions_work_in_it(reducer: dict, name: str, img: Tensor) -> None:
    model = TinyViT(reducer=reducer, schedule=KEEP, fusion=dict(type=f"cropr_mm.{name}")).eval()
    last = 64 if name == "LastLayerFusion" else 9
    assert model.tokens_per_block() == [64, 30, 9, last]
    seen = []
    model.blocks[2].norm1.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[1]))
    (features,) = model(img)
    assert features.shape == (2, 16, 8, 8)
    assert features.isfinite().all()
    assert seen == [9]


def test_it_is_found_pruned_deployed_copied_and_pickled(img: Tensor) -> None:
    model = TinyViT(reducer=CROPR, schedule=KEEP, fusion=LLF).eval()
    whole = nn.ModuleDict(dict(encoder=model))
    assert find_backbones(whole) == {"encoder": model}
    assert list(auxiliary_reducers(model)) == [0, 1]
    expected = model(img)[0]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(img)[0], expected)
    assert not torch.equal(model.unpruned()(img)[0], expected)
    model.switch_to_deploy()
    fresh = TinyViT(reducer=CROPR, schedule=KEEP, fusion=LLF, deploy=True).eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(img)[0], expected)


def test_in_training_it_wants_a_listener_and_passes_gradients(img: Tensor) -> None:
    model = TinyViT(reducer=CROPR, schedule=KEEP, fusion=LLF).train()
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        model(img)
    logits: list[Tensor] = []
    for reducer in model.reducers.values():
        reducer.listen(logits.append)
    (model(img)[0].square().mean() + sum(x.square().mean() for x in logits)).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_it_compiles_to_one_graph(img: Tensor) -> None:
    model = TinyViT(reducer=CROPR, schedule=KEEP, fusion=LLF).eval()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(compiled(img), model(img), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AttnTopK", r"AttnTopK reads cls_row"),
        ("ToMe", r"ToMe makes tokens of no cell and reads keys"),
        ("DynamicViT", "DynamicViT masks tokens:"),
        ("DToP", "DToP lets tokens leave with their logits"),
    ],
)
def test_what_it_does_not_serve_is_refused(name: str, message: str) -> None:
    classes = dict(num_classes=3) if name == "DToP" else {}
    with pytest.raises(ValueError, match=message):
        TinyViT(reducer=dict(type=f"cropr_mm.{name}", **classes), schedule=KEEP)


class CountingSchedule(Halves):
    """Counts how often it is asked."""

    asked = 0

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        type(self).asked += 1
        return super().plan(settings)


@pytest.fixture
def counted() -> TinyViT:
    model = TinyViT(reducer=CROPR, schedule=KEEP, fusion=LLF).eval()
    model.schedule = CountingSchedule()
    CountingSchedule.asked = 0
    return model


def test_the_schedule_is_asked_once_for_each_grid_and_progress(
    counted: TinyViT, img: Tensor
) -> None:
    for _ in range(3):
        counted(img)
    assert CountingSchedule.asked == 1
    assert counted.num_keep() == {0: 32, 1: 16}
    counted.progress = 0.5
    assert counted.num_keep() == {0: 48, 1: 36}
    assert counted.num_keep((4, 4)) == {0: 12, 1: 9}
    assert counted.tokens_per_block() == [64, 48, 36, 64]
    assert CountingSchedule.asked == 3
    counted.progress = 1.0
    assert counted.num_keep() == {0: 32, 1: 16}
    assert CountingSchedule.asked == 3


def test_another_schedule_is_asked_anew(counted: TinyViT) -> None:
    assert counted.num_keep() == {0: 32, 1: 16}
    counted.schedule = Halves()
    assert counted.num_keep() == {0: 32, 1: 16}
    assert CountingSchedule.asked == 1
    assert counted.unpruned().num_keep() == {}
    assert counted.num_keep() == {0: 32, 1: 16}


CFG: dict[str, Any] = dict(type="cropr_mm.TinyViT", reducer=CROPR, schedule=KEEP, fusion=LLF)


@pytest.fixture
def registered() -> Iterator[Config]:
    """Config of a classifier on the registered backbone."""
    known = dict(MODELS.module_dict)
    MODELS.register_module(module=TinyViT)
    model = dict(
        type="ImageClassifier",
        backbone=CFG,
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=3, in_channels=16),
    )
    yield Config(dict(default_scope="mmpretrain", model=model))
    MODELS.module_dict.clear()
    MODELS.module_dict.update(known)


def test_a_config_names_it_by_class_or_name(registered: Config) -> None:
    assert backbone_class(registered.model.backbone) is TinyViT
    assert backbone_class(dict(type="TinyViT")) is TinyViT
    assert backbone_class(dict(type=TinyViT)) is TinyViT
    for other in (dict(type="cropr_mm.Cropr"), dict(type="Nobody"), {}, None, "cropr_mm.TinyViT"):
        assert backbone_class(other) is None
    assert backbone_entry(registered) is registered.model.backbone
    pyramid = dict(model=dict(backbone=dict(type="cropr_mm.CroprPVT")))
    for cfg in (pyramid, {}, dict(model=dict(backbone=dict(type="Nobody")))):
        with pytest.raises(
            ValueError, match=r"expected model\.backbone of type cropr_mm\.CroprViT"
        ):
            backbone_entry(cfg)


def test_its_checkpoint_is_stripped_for_inference(registered: Config, tmp_path: Path) -> None:
    trained, stripped = tmp_path / "trained.pth", tmp_path / "stripped.pth"
    torch.save(dict(state_dict=build_model(registered).state_dict()), trained)
    result = deploy_checkpoint(registered, trained, stripped)
    assert result.encoders == ("backbone",)
    assert result.parameters_after < result.parameters_before
    registered.model.backbone.deploy = True
    content = torch.load(stripped, weights_only=True)
    build_model(registered).load_state_dict(content["state_dict"], strict=True)
    assert "deploy=True" in content["meta"]["cfg"]


def test_its_cost_is_counted_and_its_tokens_are_recorded(registered: Config, img: Tensor) -> None:
    encoder = complexity_report(registered)["encoder"]
    assert [block["tokens"] for block in encoder["blocks"]] == [64, 30, 9, 64]
    linear = 12 * 16**2  # multiply-adds of a token in a block: qkv, proj and two layers of the MLP
    for block in encoder["blocks"]:
        assert block["macs_linear"] - block["macs_scorers"] == block["tokens"] * linear
    model = MODELS.build(CFG).eval()
    with torch.no_grad(), TokenRecorder(model) as recorder:
        model(img)
    record = recorder.record()
    assert (record.grid, record.num_keep) == ((8, 8), (30, 9))
    assert (record.left_after == -1).sum(axis=1).tolist() == [9, 9]
