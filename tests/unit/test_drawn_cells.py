"""Training on a few cells at a time: unbiased, and only for the queries of these cells."""

from itertools import combinations, product
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from cropr_mm import CroprViT
from cropr_mm.hooks import CroprAuxLossHook
from cropr_mm.targets import GridMultiLabelTarget, PatchLabelTarget
from cropr_mm.targets.base import AuxiliaryTarget
from cropr_mm.targets.cells import draw_cells

ARCH = dict(embed_dim=8, depth=4, num_heads=2, patch_size=8, img_size=32)
PATCH_LABELS = dict(type="cropr_mm.PatchLabelTarget", num_classes=3, grid=(2, 2))
GRID_LABELS = dict(type="cropr_mm.GridMultiLabelTarget", num_classes=3, grid=(2, 2))
NAMES = ["loss_cropr_b00", "loss_cropr_b01"]


class Toy(nn.Module):
    """What the hook expects of a model, and nothing more."""

    def __init__(self, **changes: object) -> None:
        super().__init__()
        reducer = dict(dict(type="cropr_mm.Cropr", num_classes=3, num_queries=(2, 2)), **changes)
        self.backbone = CroprViT(
            ARCH,
            reducer=reducer,
            schedule=dict(type="cropr_mm.ConstantRate", rate=4),
            fusion=dict(type="cropr_mm.LastLayerFusion"),
        )

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = "loss") -> dict:
        return dict(main=self.backbone(inputs)[0].square().mean())


def samples() -> list[BaseDataElement]:
    """Two images whose cells have labels 0, 1, ignored, 2 and 2, ignored, ignored, 0."""
    found = []
    for cells, boxes in (([0, 1, 255, 2], [[1.0, 1, 9, 9]]), ([2, 255, 255, 0], [])):
        sample = BaseDataElement(metainfo=dict(batch_input_shape=(32, 32)))
        labels = torch.tensor(cells).view(1, 2, 2).repeat_interleave(16, 1).repeat_interleave(16, 2)
        sample.gt_sem_seg = SimpleNamespace(data=labels)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.ones(len(boxes), dtype=torch.int64)
        )
        found.append(sample)
    return found


def listened(cfg: dict, num_cells: int | None = None, **changes: object) -> Toy:
    torch.manual_seed(0)
    model = Toy(**changes).train()
    dataset = SimpleNamespace(metainfo={})
    hook = CroprAuxLossHook(cfg, num_cells=num_cells)
    loader = SimpleNamespace(dataset=dataset)
    hook.before_train(SimpleNamespace(model=model, train_dataloader=loader))
    return model


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def step(model: Toy) -> dict[str, Tensor]:
    """Auxiliary losses, and gradients of the modules."""
    model.zero_grad()
    losses = model(IMAGES, samples())
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.backbone.reducers.named_parameters()}
    return {**{name: losses[name].detach() for name in NAMES}, **gradients}


@pytest.mark.parametrize("num_cells", [1, 2, 3])
@pytest.mark.parametrize(
    "target",
    [PatchLabelTarget(3, 2), GridMultiLabelTarget(3, 2)],
    ids=lambda target: type(target).__name__,
)
def test_the_mean_over_all_draws_is_the_exact_loss(target: AuxiliaryTarget, num_cells: int) -> None:
    torch.manual_seed(0)
    encoded, logits = target.encode(samples(), "cpu"), torch.randn(2, 4, 3, requires_grad=True)
    losses = []
    for draw in product(combinations(range(4), num_cells), repeat=2):
        noise = torch.zeros(2, 4).scatter_(1, torch.tensor(draw), 1.0)
        drawn = draw_cells(target, encoded, noise, num_cells)
        assert drawn.cells.sort(dim=1).values.tolist() == [list(cells) for cells in draw]
        picked = logits.take_along_dim(drawn.cells.unsqueeze(2), dim=1)
        losses.append(drawn.factor * target.loss(picked, drawn.target))
    exact = target.loss(logits, encoded)
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(mean, exact)
    (found,), (expected,) = (torch.autograd.grad(loss, logits) for loss in (mean, exact))
    torch.testing.assert_close(found, expected)


def test_images_without_labels_lose_nothing() -> None:
    target = PatchLabelTarget(3, 2)
    encoded = torch.full((2, 4), 255)
    drawn = draw_cells(target, encoded, torch.rand(2, 4), 2)
    assert (drawn.factor * target.loss(torch.randn(2, 2, 3), drawn.target)).item() == 0


@pytest.mark.parametrize("cfg", [PATCH_LABELS, GRID_LABELS], ids=lambda cfg: cfg["type"])
@pytest.mark.parametrize("scorer", ["simple", "mha"])
def test_drawing_all_cells_is_training_on_all(cfg: dict, scorer: str) -> None:
    changes = dict(scorer=scorer, num_heads=2)
    exact, drawn = step(listened(cfg, **changes)), step(listened(cfg, num_cells=4, **changes))
    for name, value in exact.items():
        torch.testing.assert_close(drawn[name], value, msg=name)


@pytest.mark.parametrize("cfg", [PATCH_LABELS, GRID_LABELS], ids=lambda cfg: cfg["type"])
def test_many_draws_approach_the_exact_gradient(cfg: dict) -> None:
    exact, model = step(listened(cfg)), listened(cfg, num_cells=2)
    draws = [step(model) for _ in range(100)]
    for name, value in exact.items():
        values = torch.stack([draw[name] for draw in draws])
        assert values.std(dim=0).max() > 0, "each pass draws anew"
        error = (values.mean(dim=0) - value).norm() / value.norm()
        spread = (values - value).reshape(100, -1).norm(dim=1).mean() / value.norm()
        assert error < 3 * spread / 100**0.5, name


def test_gradient_reaches_the_queries_of_drawn_cells_only() -> None:
    model, seen = listened(GRID_LABELS, num_cells=1), []
    for reducer in model.backbone.reducers.values():
        reducer.attention.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    values = step(model)
    drawn = [q.shape for q in seen]
    assert drawn == [(2, 1, 8)] * 2, "one query for each image"
    for block, queries in zip("01", seen, strict=True):
        own = model.backbone.reducers[block].queries[0]
        touched = (own == queries).all(dim=2).any(dim=0)  # (2, 1, 8) against (4, 8)
        gradient = values[f"{block}.queries"][0].abs().amax(dim=1)
        assert torch.equal(gradient > 0, touched)
        assert 1 <= touched.sum() <= 2


def test_passes_that_are_not_listened_to_use_all_queries() -> None:
    model = listened(PATCH_LABELS, num_cells=1)
    shapes = []
    for reducer in model.backbone.reducers.values():
        reducer.auxiliary.register_forward_hook(lambda *args: shapes.append(args[2].shape))
    model.backbone(IMAGES)
    assert shapes == [(2, 4, 3)] * 2


@pytest.mark.parametrize(
    ("cfg", "num_cells", "message"),
    [
        (dict(type="cropr_mm.MultiLabelTarget", num_classes=3), 1, "MultiLabelTarget has one"),
        (PATCH_LABELS, 0, "from 1 to the 4 cells of PatchLabelTarget, got 0"),
        (GRID_LABELS, 5, "from 1 to the 4 cells of GridMultiLabelTarget, got 5"),
    ],
)
def test_numbers_of_cells_that_are_not_there_raise(cfg: dict, num_cells: int, message: str) -> None:
    queries = 1 if "grid" not in cfg else (2, 2)
    with pytest.raises(ValueError, match=message):
        listened(cfg, num_cells=num_cells, num_queries=queries)


def test_a_target_of_other_cells_raises() -> None:
    with pytest.raises(
        ValueError, match=r"\(2, 4\) images and cells, got PatchLabelTarget.*\(2, 9\)"
    ):
        draw_cells(PatchLabelTarget(3, 2), torch.zeros(2, 9), torch.rand(2, 4), 1)
