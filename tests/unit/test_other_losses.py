"""Losses of methods besides Cropr, through the same hook: kept share, exit logits, teacher."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from cropr_mm import CroprPVT, CroprViT
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.hooks import CroprAuxLossHook
from cropr_mm.optim.clip_groups import auxiliary_parameters
from cropr_mm.schedules import Stages
from cropr_mm.structures import Reduction

ARCH: dict[str, Any] = dict(embed_dim=8, depth=5, num_heads=2, patch_size=8, img_size=32)
KEEP = dict(type="cropr_mm.KeepRatioTarget")
LABELS = dict(type="cropr_mm.PatchLabelTarget", num_classes=3, grid=4)


class Toy(BaseModel):
    """Classifier of cells with what mmengine's runner expects of a model, and nothing more."""

    def __init__(self, reducer: dict | None, fusion: dict | None = None) -> None:
        super().__init__()
        schedule = dict(type="cropr_mm.ExplicitTokens", num_keep={0: 12, 2: 4})
        pruning = dict(reducer=reducer, schedule=schedule, fusion=fusion) if reducer else {}
        self.backbone = CroprViT(ARCH, **pruning)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = "tensor"):
        y = self.head(self.backbone(inputs)[0])
        return dict(loss_main=y.square().mean()) if mode == "loss" else y


def model_of(name: str | None, seed: int = 0, **options: Any) -> Toy:
    torch.manual_seed(seed)
    return Toy(None if name is None else dict(type=f"cropr_mm.{name}", **options)).train()


def samples(labels: Tensor) -> list[BaseDataElement]:
    """Label maps (B, 32, 32) as mmseg's data samples."""
    made = [BaseDataElement() for _ in labels]
    for element, values in zip(made, labels, strict=True):
        element.gt_sem_seg = PixelData(data=values[None])
    return made


def listen(model: nn.Module, **options: Any) -> CroprAuxLossHook:
    hook = CroprAuxLossHook(**options)
    dataset = SimpleNamespace(metainfo={})
    hook.before_train(
        SimpleNamespace(model=model, train_dataloader=SimpleNamespace(dataset=dataset))
    )
    return hook


def run(model: nn.Module, labels: Tensor | None = None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    images = torch.randn(2, 3, 32, 32)
    labels = torch.zeros(2, 32, 32, dtype=torch.int64) if labels is None else labels
    return model(images, data_samples=samples(labels), mode="loss")


def record(model: Toy) -> list[Reduction]:
    steps: list[Reduction] = []
    for reducer in model.backbone.reducers.values():
        reducer.register_forward_hook(lambda _m, _a, result: steps.append(result))
    return steps


@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_the_share_of_kept_tokens_learns_to_be_the_schedules(name: str) -> None:
    model = model_of(name)
    listen(model, target=KEEP)
    steps = record(model)
    losses = run(model)
    assert set(losses) == {"loss_main", "loss_keep_b00", "loss_keep_b02"}
    for key, step, share in zip(
        ("loss_keep_b00", "loss_keep_b02"), steps, (12 / 16, 4 / 16), strict=True
    ):
        kept = step.kept.policy.mean(1)
        expected = 2 * (kept - share).square().mean() / 2  # weight 2, mean over two steps
        torch.testing.assert_close(losses[key], expected)
    losses["loss_keep_b02"].backward()
    predictor = model.backbone.reducers["2"].predictor
    assert predictor.fc3.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_masks_learn_on_a_pyramid_too(name: str) -> None:
    model = model_of(name)
    model.backbone = CroprPVT(
        dict(depths=(1, 1, 2, 2), embed_dims=(8, 8, 8, 8), num_heads=(1, 1, 2, 2)),
        img_size=32,
        stage=2,
        out_indices=(2, 3),
        reducer=dict(type=f"cropr_mm.{name}"),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 3}),
    )
    listen(model, target=KEEP)
    steps = record(model)
    losses = run(model)
    share = steps[0].kept.policy.mean(1) - 3 / 4
    torch.testing.assert_close(losses["loss_keep_b00"], 2 * share.square().mean())
    sum(losses.values()).backward()
    for parameter in model.backbone.reducers.parameters():
        assert bool(parameter.grad.abs().sum() > 0)


def test_their_parameters_are_clipped_with_the_model() -> None:
    assert auxiliary_parameters(model_of("DynamicViT")) == []
    assert len(auxiliary_parameters(model_of("Cropr", num_classes=3))) > 0


def test_exits_learn_the_labels_of_the_tokens_that_are_there() -> None:
    model = model_of("DToP", num_classes=3)
    model.backbone.reducers["0"].head.weight.data.mul_(30)
    listen(model, target=LABELS)
    seen: list[tuple] = []
    for reducer in model.backbone.reducers.values():
        reducer.auxiliary.register_forward_hook(lambda _m, _a, output: seen.append(output))
    cells = torch.randint(0, 3, (2, 4, 4))
    cells[0, 0, 1] = 255
    labels = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
    losses = run(model, labels)
    assert set(losses) == {"loss_main", "loss_exit_b00", "loss_exit_b02"}
    for key, (logits, places, _) in zip(("loss_exit_b00", "loss_exit_b02"), seen, strict=True):
        wanted = cells.flatten(1).gather(1, places)
        expected = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=255)
        torch.testing.assert_close(losses[key], expected)
    assert seen[1][1].shape == (2, 12)
    losses["loss_exit_b02"].backward()
    assert model.backbone.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0, "no stop-gradient"


def test_tokens_that_exited_learn_nothing_more() -> None:
    model = model_of("DToP", num_classes=3, confidence=0.4, context=1)
    for reducer in model.backbone.reducers.values():
        reducer.head.weight.data.mul_(30)
    listen(model, target=LABELS)
    steps, seen = record(model), []
    model.backbone.reducers["2"].auxiliary.register_forward_hook(
        lambda _m, _a, output: seen.append(output)
    )
    cells = torch.randint(0, 3, (2, 4, 4))
    labels = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
    loss = run(model, labels)["loss_exit_b02"]
    kept = steps[0].kept
    assert 0 < kept.policy.sum() < kept.policy.numel()
    wanted = cells.flatten(1).gather(1, kept.index)
    expected = F.cross_entropy(seen[0][0][kept.policy], wanted[kept.policy])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("grid", [2, 8, (2, 8)])
def test_exits_need_a_target_of_the_patch_grid(grid: int | tuple[int, int]) -> None:
    model = model_of("DToP", num_classes=3)
    listen(model, target=LABELS | dict(grid=grid))
    with pytest.raises(ValueError, match=r"but tokens exit from one of \(4, 4\) patches"):
        run(model)


@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_an_image_that_loses_everything_breaks_nothing(name: str) -> None:
    model = model_of(name)
    model.backbone.reducers["0"].predictor.fc3.bias.data.copy_(torch.tensor([-60.0, 60.0]))
    listen(model, target=KEEP)
    steps = record(model)
    losses = run(model)
    assert steps[0].kept.policy.sum() == 0
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_nothing_is_masked_where_the_schedule_keeps_everything() -> None:
    model = model_of("DynamicViT")
    model.backbone.progress = 0.0
    model.backbone.schedule = Stages(3, [0, 2], absorb_prefix=False)
    listen(model, target=KEEP)
    steps = record(model)
    losses = run(model)
    assert all(bool((step.kept.policy == 1).all()) for step in steps)
    assert losses["loss_keep_b00"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.reducers.parameters())


@pytest.mark.parametrize(
    ("name", "options", "target", "message"),
    [
        ("Cropr", dict(num_classes=3), KEEP, "Cropr cannot learn KeepRatioTarget"),
        ("DynamicViT", {}, LABELS, "DynamicViT cannot learn PatchLabelTarget"),
        ("DToP", dict(num_classes=4), LABELS, "num_classes=4, but PatchLabelTarget .* has 3"),
        (
            "DToP",
            dict(num_classes=3),
            dict(type="cropr_mm.MultiLabelTarget", num_classes=3),
            "cannot learn",
        ),
    ],
)
def test_a_target_of_another_method_is_named(
    name: str, options: dict, target: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        listen(model_of(name, **options), target=target)


def test_drawn_cells_are_for_queries() -> None:
    with pytest.raises(ValueError, match=r"draws among queries; .* has none"):
        listen(model_of("DToP", num_classes=3), target=LABELS, num_cells=3)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights of a dense model as mmengine saves them."""
    path = tmp_path / "dense.pth"
    torch.save(dict(state_dict=model_of(None, seed=7).state_dict()), path)
    return path


@pytest.mark.parametrize("token_loss", ["mse", "kl"])
def test_the_teacher_is_the_dense_model_of_the_checkpoint(
    checkpoint: Path, token_loss: str
) -> None:
    model = model_of("DynamicViT")
    needs_aux_loss = dict(checkpoint=str(checkpoint), logits="head", token_loss=token_loss)
    listen(model, target=KEEP, teacher=needs_aux_loss)
    steps, said = record(model), {}
    model.head.register_forward_hook(lambda _m, _a, out: said.update(logits=out))
    model.backbone.blocks[-1].register_forward_hook(lambda _m, _a, out: said.update(x=out[0]))
    losses = run(model)
    teacher, truth = model_of(None, seed=7).eval(), {}
    teacher.backbone.blocks[-1].register_forward_hook(lambda _m, _a, out: truth.update(x=out[0]))
    torch.manual_seed(1)
    with torch.no_grad():
        truth["logits"] = teacher(torch.randn(2, 3, 32, 32))
        truth["x"] = teacher.backbone.norm(truth["x"])[:, 1:]
    x = model.backbone.norm(said["x"])[:, 1:]
    kept = steps[-1].kept.policy.detach() > 0
    given, wanted = x[kept], truth["x"][kept]
    expected = F.mse_loss(given, wanted)
    if token_loss == "kl":
        ratio = wanted.log_softmax(1) - given.log_softmax(1)
        expected = (wanted.softmax(1) * ratio).sum() / len(wanted)
    torch.testing.assert_close(losses["loss_teacher_tokens"], 0.5 * expected)
    probabilities = truth["logits"].softmax(1)
    ratio = truth["logits"].log_softmax(1) - said["logits"].log_softmax(1)
    divergence = (probabilities * ratio).sum(1).mean()
    torch.testing.assert_close(losses["loss_teacher_logits"], 0.5 * divergence)


def test_a_teacher_goes_with_activation_checkpointing(checkpoint: Path) -> None:
    gradients = []
    for with_cp in (False, True):
        model = model_of("DynamicViT")
        model.backbone.with_cp = with_cp
        listen(model, target=KEEP, teacher=dict(checkpoint=str(checkpoint), logits="head"))
        sum(run(model).values()).backward()
        gradients.append(model.backbone.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


def test_what_a_teacher_never_hears_is_named(checkpoint: Path) -> None:
    model = model_of("DynamicViT")
    model.head.add_module("unused", nn.Identity())
    hook = listen(
        model, target=KEEP, teacher=dict(checkpoint=str(checkpoint), logits="head.unused")
    )
    with pytest.raises(RuntimeError, match=r"teacher\.logits names head\.unused"):
        run(model)
    assert hook._listeners[0].state is None, "a pass that failed leaves nothing"


def test_the_teacher_stays_as_it_is_and_belongs_to_nobody(checkpoint: Path) -> None:
    model = model_of("DTPS")
    names = set(model.state_dict())
    hook = listen(model, target=KEEP, teacher=dict(checkpoint=str(checkpoint), logits="head"))
    assert set(model.state_dict()) == names
    sum(run(model).values()).backward()
    teacher = hook._listeners[0]._teacher_model
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not teacher.training
    twin = copy.deepcopy(model)
    assert set(run(twin)) == set(run(model))
    hook.after_train(SimpleNamespace())
    model.eval()
    assert set(run(model)) == {"loss_main"}


def test_a_method_without_masks_learns_classes_only(checkpoint: Path) -> None:
    model = model_of("DToP", num_classes=3)
    options = dict(checkpoint=str(checkpoint), logits="head", token_weight=0.0)
    listen(model, target=LABELS, teacher=options)
    assert {"loss_teacher_logits", "loss_exit_b00"} <= set(run(model))
    with pytest.raises(ValueError, match=r"needs a reducer that masks .* got (DToP|ATS)"):
        listen(
            model_of("DToP", num_classes=3), target=LABELS, teacher=options | dict(token_weight=1)
        )


def test_what_no_teacher_can_be_made_of_is_named(checkpoint: Path, tmp_path: Path) -> None:
    file = str(checkpoint)
    with pytest.raises(ValueError, match=r"expected a module neck\.fc in Toy"):
        listen(model_of("DTPS"), target=KEEP, teacher=dict(checkpoint=file, logits="neck.fc"))
    with pytest.raises(ValueError, match="weights >= 0, got -1"):
        listen(model_of("DTPS"), target=KEEP, teacher=dict(checkpoint=file, logit_weight=-1))
    with pytest.raises(ValueError, match="something to learn"):
        listen(model_of("DTPS"), target=KEEP, teacher=dict(checkpoint=file, token_weight=0))
    with pytest.raises(ValueError, match="token_loss 'mse' or 'kl', got 'l1'"):
        listen(model_of("DTPS"), target=KEEP, teacher=dict(checkpoint=file, token_loss="l1"))
    with pytest.raises(FileNotFoundError):
        listen(model_of("DTPS"), target=KEEP, teacher=dict(checkpoint=str(tmp_path / "no.pth")))
    encoder = tmp_path / "encoder.pth"
    torch.save(model_of(None).backbone.state_dict(), encoder)
    weights = model_of(None).state_dict()
    weights["head.weight"] = torch.zeros(5, 8, 1, 1)
    torch.save(weights, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"wide\.pth does not fit the teacher"):
        listen(model_of("DTPS"), target=KEEP, teacher=dict(checkpoint=str(tmp_path / "wide.pth")))
    with pytest.raises(CheckpointError, match="expected the whole dense model"):
        listen(model_of("DTPS"), target=KEEP, teacher=dict(checkpoint=str(encoder)))
