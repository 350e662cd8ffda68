"""The auxiliary-loss hook on a toy model with a real backbone."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cropr_mm import CroprViT
from cropr_mm.hooks import CroprAuxLossHook
from cropr_mm.targets import build_target

ARCH = dict(embed_dim=8, depth=5, num_heads=2, patch_size=8, img_size=32)
TARGET = dict(type="cropr_mm.MultiLabelTarget", num_classes=3)
NAMES = ["loss_cropr_b00", "loss_cropr_b01", "loss_cropr_b02"]


def backbone(**changes: object) -> CroprViT:
    cfg = dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=3),
        schedule=dict(type="cropr_mm.ConstantRate", rate=4),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
    cfg.update(changes)
    return CroprViT(ARCH, **cfg)


class Toy(BaseModel):
    """What mmengine's runner expects of a model, and nothing more."""

    def __init__(self, **changes: object) -> None:
        super().__init__()
        self.backbone = backbone(**changes)
        self.head = nn.Linear(8, 1)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = "tensor"):
        y = self.head(self.backbone(inputs)[0].mean(dim=(2, 3)))
        return dict(loss_main=y.square().mean(), acc=y.detach().mean()) if mode == "loss" else y


def samples(*labels: list[int]) -> list[BaseDataElement]:
    out = [BaseDataElement() for _ in labels]
    for element, present in zip(out, labels, strict=True):
        element.gt_instances = InstanceData(labels=torch.tensor(present, dtype=torch.int64))
    return out


SAMPLES = samples([2, 0, 2], [])
MULTI_HOT = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def runner(model: nn.Module, classes: tuple[str, ...] | None = ("a", "b", "c")) -> SimpleNamespace:
    metainfo = {} if classes is None else dict(classes=classes)
    dataset = SimpleNamespace(metainfo=metainfo)
    return SimpleNamespace(model=model, train_dataloader=SimpleNamespace(dataset=dataset))


def listen(model: nn.Module, **changes: object) -> CroprAuxLossHook:
    hook = CroprAuxLossHook(TARGET, **changes)
    hook.before_train(runner(model))
    return hook


@pytest.fixture
def model() -> Toy:
    torch.manual_seed(0)
    return Toy().train()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_adds_one_loss_per_module_on_the_tokens_that_reach_it(model: Toy, images: Tensor) -> None:
    seen = {}
    for block, reducer in model.backbone.reducers.items():
        reducer.register_forward_hook(
            lambda _, args, __, block=block: seen.update({block: args[0].x.detach()})
        )
    listen(model)
    losses = model(images, SAMPLES, mode="loss")
    assert list(losses) == ["loss_main", "acc", *NAMES]
    for block, name in zip("012", NAMES, strict=True):
        reducer = model.backbone.reducers[block]
        logits = reducer.auxiliary(reducer.attention(reducer.queries, seen[block]))
        expected = F.binary_cross_entropy_with_logits(logits, MULTI_HOT)
        assert losses[name].item() == pytest.approx(expected.item(), rel=1e-6)
    assert [seen[b].shape[1] for b in "012"] == [17, 12, 8]
    total, logged = model.parse_losses(losses)
    assert total.item() == pytest.approx(sum(losses[n].item() for n in ["loss_main", *NAMES]))
    assert set(NAMES) < set(logged)


@pytest.mark.parametrize("style", ["by position", "by keyword", "mixed"])
def test_arguments_are_understood_however_they_are_passed(
    model: Toy, images: Tensor, style: str
) -> None:
    listen(model)
    losses = {
        "by position": lambda: model(images, SAMPLES, "loss"),
        "by keyword": lambda: model(mode="loss", data_samples=SAMPLES, inputs=images),
        "mixed": lambda: model(images, data_samples=SAMPLES, mode="loss"),
    }[style]()
    assert set(NAMES) < set(losses)


def test_the_auxiliary_losses_do_not_reach_the_model(model: Toy, images: Tensor) -> None:
    hook = listen(model)
    losses = model(images, SAMPLES, mode="loss")
    model.parse_losses(losses)[0].backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    # The same pass and the main loss alone.
    model(images, SAMPLES, mode="loss")["loss_main"].backward()
    hook.after_train(runner(model))
    for name, parameter in model.named_parameters():
        if ".reducers." in name:
            assert parameter.grad is None, name
            assert gradients[name].abs().max() > 0, name
        else:
            assert torch.equal(parameter.grad, gradients[name]), name


def test_the_weight_scales_the_losses(model: Toy, images: Tensor) -> None:
    hook = listen(model)
    once = model(images, SAMPLES, mode="loss")
    hook.after_train(runner(model))
    listen(model, loss_weight=0.25)
    quarter = model(images, SAMPLES, mode="loss")
    assert [quarter[n].item() for n in NAMES] == pytest.approx([once[n].item() / 4 for n in NAMES])
    assert quarter["loss_main"] == once["loss_main"]


def test_other_modes_and_evaluation_are_left_alone(model: Toy, images: Tensor) -> None:
    listen(model)
    assert isinstance(model(images, SAMPLES, mode="predict"), Tensor)
    assert isinstance(model(images), Tensor)
    model.eval()
    assert set(model(images, SAMPLES, mode="loss")) == {"loss_main", "acc"}
    assert isinstance(model(images, mode="predict"), Tensor)
    # And nothing of those passes is left for the next one.
    model.train()
    assert set(NAMES) < set(model(images, SAMPLES, mode="loss"))


def test_losses_under_no_grad_are_plain_numbers(model: Toy, images: Tensor) -> None:
    listen(model)
    with torch.no_grad():
        losses = model(images, SAMPLES, mode="loss")
    assert not any(losses[n].requires_grad for n in NAMES)


def test_the_backbone_can_run_alone_while_the_model_trains(model: Toy, images: Tensor) -> None:
    listen(model)
    for _ in range(2):
        model.backbone(images)
    assert set(NAMES) < set(model(images, SAMPLES, mode="loss"))


def test_a_pass_that_fails_leaves_nothing_for_the_next(model: Toy, images: Tensor) -> None:
    listen(model)
    expected = model(images, SAMPLES, mode="loss")
    handle = model.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images * 2, SAMPLES, mode="loss")
    handle.remove()
    losses = model(images, SAMPLES, mode="loss")
    assert all(torch.equal(losses[n], expected[n]) for n in NAMES)


def hooks_of(model: nn.Module) -> int:
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    )
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


def test_nothing_is_registered_before_training_and_nothing_is_left_after(
    model: Toy, images: Tensor
) -> None:
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    hook = CroprAuxLossHook(TARGET)
    hook.before_run(runner(model))
    assert hooks_of(model) == 0
    hook.before_train(runner(model))
    assert hooks_of(model) == 2 * 2 + 3
    hook.before_train(runner(model))  # a second run after one that was interrupted
    assert hooks_of(model) == 2 * 2 + 3
    model(images, SAMPLES, mode="loss")
    hook.after_train(runner(model))
    assert hooks_of(model) == 0
    assert {name: set(vars(m)) for name, m in model.named_modules()} == before
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        model(images, SAMPLES, mode="loss")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_model_in_training_can_be_copied_and_pickled(
    model: Toy, images: Tensor, duplicate: object
) -> None:
    hook = listen(model)
    model(images, SAMPLES, mode="loss")
    twin = duplicate(model)
    with torch.no_grad():
        for parameter in twin.backbone.reducers.parameters():
            parameter.zero_()
    expected = F.binary_cross_entropy_with_logits(torch.zeros(2, 3), MULTI_HOT)
    losses, own = twin(images, SAMPLES, mode="loss"), model(images, SAMPLES, mode="loss")
    assert list(losses) == list(own)
    assert all(losses[n].item() == pytest.approx(expected.item()) for n in NAMES)
    assert not any(torch.equal(losses[n], own[n]) for n in NAMES)
    hook.after_train(runner(model))
    assert hooks_of(model) == 0
    assert hooks_of(twin) == 2 * 2 + 3


def test_a_step_that_keeps_everything_still_teaches_its_module(model: Toy, images: Tensor) -> None:
    listen(model)
    model.backbone.progress = 0.0  # only the first module still removes a token
    assert len(set(model.backbone.num_keep().values())) == 1
    losses = model(images, SAMPLES, mode="loss")
    assert all(losses[f"loss_cropr_b0{block}"] > 0 for block in range(3))
    model.parse_losses(losses)[0].backward()
    for reducer in model.backbone.reducers.values():
        assert min(p.grad.abs().max().item() for p in reducer.parameters()) > 0


def test_a_module_that_does_not_run_is_named(model: Toy, images: Tensor) -> None:
    listen(model)
    schedule = model.backbone.schedule
    model.backbone.schedule = lambda settings: {0: schedule(settings)[0]}
    with pytest.raises(RuntimeError, match=r"loss_cropr_b01 did not run.*the same blocks"):
        model(images, SAMPLES, mode="loss")


def test_several_backbones_are_told_apart_by_their_path(images: Tensor) -> None:
    class Two(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.ModuleList([backbone()])

        def forward(self, inputs: Tensor, data_samples: list, mode: str):
            self.extra[0](inputs)
            return super().forward(inputs, data_samples, mode)

    model = Two().train()
    listen(model)
    losses = model(images, SAMPLES, mode="loss")
    expected = [f"loss_cropr_{path}_b0{i}" for path in ("backbone", "extra_0") for i in range(3)]
    assert [n for n in losses if "cropr" in n] == expected


def test_data_parallel_wrappers_are_looked_through(model: Toy, images: Tensor) -> None:
    wrapped = nn.DataParallel(model)
    listen(wrapped)
    assert set(NAMES) < set(model(images, SAMPLES, mode="loss"))


def test_a_backbone_that_runs_twice_per_pass_raises(images: Tensor) -> None:
    class Twice(Toy):
        def forward(self, inputs: Tensor, data_samples: list, mode: str):
            self.backbone(inputs)
            return super().forward(inputs, data_samples, mode)

    model = Twice().train()
    listen(model)
    with pytest.raises(RuntimeError, match="loss_cropr_b00 ran twice"):
        model(images, SAMPLES, mode="loss")


def test_checkpointing_of_blocks_gives_the_same_losses_and_gradients(images: Tensor) -> None:
    torch.manual_seed(0)
    plain = Toy().train()
    saving = Toy(with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        listen(model)
        model.parse_losses(model(images, SAMPLES, mode="loss"))[0].backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_of_the_whole_backbone_works_or_raises(
    model: Toy, images: Tensor, reentrant: bool
) -> None:
    forward = model.backbone.forward
    model.backbone.forward = lambda x: checkpoint(forward, x, use_reentrant=reentrant)
    listen(model)
    if reentrant:
        with pytest.raises(RuntimeError, match=r"no gradient.*with_cp=True"):
            model(images, SAMPLES, mode="loss")
        return
    model.parse_losses(model(images, SAMPLES, mode="loss"))[0].backward()
    assert all(p.grad.abs().max() > 0 for p in model.backbone.reducers.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(reducer=None, schedule=None, fusion=None),
            r"Toy has reducers \{'backbone': 'none'\}",
        ),
        (dict(reducer=dict(type="cropr_mm.RandomPruner")), "'RandomPruner'"),
        (dict(deploy=True), r"deploy=False.*'Cropr'"),
    ],
)
def test_models_without_cropr_modules_in_training_form_raise(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listen(Toy(**changes))


def test_models_of_another_kind_raise() -> None:
    with pytest.raises(ValueError, match="Linear has no backbone that reduces tokens"):
        listen(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"CroprViT.forward has no \['data_samples', 'mode'\]"):
        listen(backbone())


def test_classes_of_head_target_and_dataset_must_agree(model: Toy) -> None:
    with pytest.raises(ValueError, match=r"loss_cropr_b00 has num_classes=5.*has 3"):
        listen(Toy(reducer=dict(type="cropr_mm.Cropr", num_classes=5)))
    with pytest.raises(ValueError, match=r"num_classes=3.*has 2 classes: a, b"):
        CroprAuxLossHook(TARGET).before_train(runner(model, classes=("a", "b")))
    CroprAuxLossHook(TARGET).before_train(runner(model, classes=None))


def test_queries_of_modules_and_target_must_agree() -> None:
    with pytest.raises(ValueError, match=r"loss_cropr_b00 has num_queries=4.*needs 1; set"):
        listen(Toy(reducer=dict(type="cropr_mm.Cropr", num_classes=3, num_queries=4)))


def test_missing_data_samples_and_labels_out_of_range_raise(model: Toy, images: Tensor) -> None:
    listen(model)
    with pytest.raises(ValueError, match=r"data_samples.*NoneType"):
        model(images, mode="loss")
    with pytest.raises(ValueError, match=r"got \[3\]"):
        model(images, samples([3], []), mode="loss")


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weights_that_train_nothing_raise(weight: float) -> None:
    with pytest.raises(ValueError, match="loss_weight must be positive"):
        CroprAuxLossHook(TARGET, loss_weight=weight)


def test_classes_of_the_target_follow_from_the_data_or_the_modules(model: Toy) -> None:
    hook = CroprAuxLossHook(dict(type="cropr_mm.MultiLabelTarget"))
    for classes in (("a", "b", "c"), None):
        dataset = SimpleNamespace(metainfo={} if classes is None else dict(classes=classes))
        assert hook.make_target(model, dataset).num_classes == 3
    assert hook.make_target(model).num_classes == 3, "nothing is kept from data set to data set"
    assert hook.target == dict(type="cropr_mm.MultiLabelTarget"), "nor written into the config"
    with pytest.raises(ValueError, match=r"b00 has num_classes=3, but MultiLabelTarget .* has 2"):
        hook.make_target(model, SimpleNamespace(metainfo=dict(classes=("a", "b"))))


def test_the_grid_of_the_target_follows_from_the_queries() -> None:
    hook = CroprAuxLossHook(dict(type="cropr_mm.PatchLabelTarget"))
    reducer = dict(type="cropr_mm.Cropr", num_classes=3)
    target = hook.make_target(Toy(reducer=dict(reducer, num_queries=(2, 3))))
    assert (target.grid, target.num_classes) == ((2, 3), 3)
    with pytest.raises(ValueError, match=r"PatchLabelTarget needs grid, .*num_queries=\(rows, col"):
        hook.make_target(Toy(reducer=dict(reducer, num_queries=6)))
    given = CroprAuxLossHook(dict(type="cropr_mm.PatchLabelTarget", grid=(3, 2)))
    with pytest.raises(ValueError, match=r"num_queries=\(2, 3\), but .* needs \(3, 2\)"):
        given.make_target(Toy(reducer=dict(reducer, num_queries=(2, 3))))


def test_the_grid_of_tokens_that_exit_is_that_of_the_patches() -> None:
    hook = CroprAuxLossHook(dict(type="cropr_mm.PatchLabelTarget"))
    schedule = dict(type="cropr_mm.Stages", rate=4, blocks=[1])
    reducer = dict(type="cropr_mm.DToP", num_classes=3)
    target = hook.make_target(Toy(reducer=reducer, schedule=schedule, fusion=None))
    assert (target.grid, target.num_classes) == ((4, 4), 3)


def test_targets_without_classes_or_grid_need_none() -> None:
    model = Toy(reducer=dict(type="cropr_mm.RandomPruner"))
    with pytest.raises(ValueError, match="'RandomPruner'"):
        CroprAuxLossHook(dict(type="cropr_mm.MultiLabelTarget")).make_target(model)
    with pytest.raises(ValueError, match="MultiLabelTarget needs num_classes, which neither"):
        build_target(dict(type="cropr_mm.MultiLabelTarget"), model, None)
    keep = build_target(dict(type="cropr_mm.KeepRatioTarget"), model, None)
    assert keep.weight == 2


def test_a_second_hook_is_named_before_training(model: Toy, images: Tensor) -> None:
    first = listen(model)
    second = CroprAuxLossHook(TARGET)
    with pytest.raises(ValueError, match="b00 is trained already: expected one CroprAuxLossHook"):
        second.before_train(runner(model))
    assert hooks_of(model) == 2 * 2 + 3, "the second left nothing"
    first.after_train(runner(model))
    second.before_train(runner(model))
    assert set(NAMES) < set(model(images, SAMPLES, mode="loss"))
