"""The class target against mmpretrain's own heads, whose target and loss it shares."""

from typing import Any

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement

from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets import ClassTarget

pytest.importorskip("mmpretrain")
CPU = torch.device("cpu")
LOSSES = (
    dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1),
    dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.2, mode="classy_vision"),
    dict(type="mmpretrain.CrossEntropyLoss", loss_weight=0.5),
    dict(type="mmpretrain.CrossEntropyLoss", class_weight=[1.0, 2.0, 3.0]),
    dict(type="mmpretrain.CrossEntropyLoss", use_soft=True),
    dict(type="mmpretrain.CrossEntropyLoss", use_sigmoid=True),
)


def sample(label: int | list[int] | None = None, score: list[float] | None = None) -> Any:
    out = BaseDataElement()
    if label is not None:
        out.gt_label = torch.tensor([label] if isinstance(label, int) else label)
    if score is not None:
        out.gt_score = torch.tensor(score)
    return out


MIXED = [sample(0, [0.7, 0.0, 0.3]), sample(2, [0.3, 0.0, 0.7])]


def test_labels_are_one_hot_and_mixed_scores_come_first() -> None:
    target = TASK_UTILS.build(dict(type="cropr_mm.ClassTarget", num_classes=3))
    encoded = target.encode([sample(2), sample(0)], CPU)
    assert encoded.dtype == torch.float32
    assert encoded.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert torch.equal(target.encode(MIXED, CPU), torch.tensor([[0.7, 0, 0.3], [0.3, 0, 0.7]]))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(map(str, loss.values())))
@pytest.mark.parametrize("mixed", [False, True])
def test_loss_is_that_of_mmpretrains_head(loss: dict[str, Any], mixed: bool) -> None:
    init_default_scope("mmpretrain")
    head = MODELS.build(dict(type="mmpretrain.ClsHead", loss=loss))
    samples = MIXED if mixed else [sample(2), sample(0)]
    logits = torch.tensor([[0.3, -1.2, 2.0], [0.1, 0.4, -0.7]])
    if not mixed and (loss.get("use_soft") or loss.get("use_sigmoid")):
        # mmpretrain's head needs one-hot labels for these; its data preprocessor can make them.
        scored = [sample(2, [0.0, 0.0, 1.0]), sample(0, [1.0, 0.0, 0.0])]
        expected = head._get_loss(logits, scored)["loss"]
    else:
        expected = head._get_loss(logits, samples)["loss"]
    target = ClassTarget(3, loss)
    torch.testing.assert_close(target.loss(logits, target.encode(samples, CPU)), expected)


def test_without_a_loss_it_is_cross_entropy_in_float32() -> None:
    target = ClassTarget(3)
    logits = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.bfloat16)
    loss = target.loss(logits, target.encode([sample(1)], CPU))
    expected = torch.nn.functional.cross_entropy(logits.float(), torch.tensor([1]))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([sample(1), sample(3)], r"num_classes=3\) expects labels in \[0, 2\], got \[3\]"),
        ([sample(-1)], r"got \[-1\]"),
        ([sample(1), sample()], r"one gt_label each, .*got samples with 0, 1 labels"),
        ([sample([0, 2])], r"with 2 labels; several classes in one image need MultiLabelTarget"),
        ([sample(0, [1.0, 0.0])], r"gt_score of 3 classes, got shapes \[\(2,\)\]"),
        ([sample(0, [1.0, 0.0, 1.0])], r"sums to 1 .*2 to 2; .* need MultiLabelTarget"),
    ],
)
def test_samples_that_do_not_fit_are_named(samples: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassTarget(3).encode(samples, CPU)


def test_logits_of_several_queries_or_other_classes_raise() -> None:
    target = ClassTarget(3)
    encoded = target.encode([sample(1)], CPU)
    for shape in ((1, 16, 3), (1, 4), (2, 3)):
        with pytest.raises(ValueError, match=r"shape \(1, 3\).*got"):
            target.loss(torch.zeros(shape), encoded)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (dict(type="mmpretrain.CrossEntropyLoss", reduction="none"), "returned|raised"),
        (dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1, num_classes=5), "raised"),
        (dict(type="mmpretrain.CosineSimilarityLoss"), "raised TypeError|returned"),
    ],
)
def test_losses_that_do_not_fit_are_refused_at_once(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"shape \(images, 3\).*({message})"):
        ClassTarget(3, loss)


@pytest.mark.parametrize("augment", ["Mixup", "CutMix"])
def test_auxiliary_heads_learn_the_mixture_that_the_data_preprocessor_makes(augment: str) -> None:
    torch.manual_seed(0)
    init_default_scope("mmpretrain")
    from mmpretrain.structures import DataSample

    loss = dict(type="LabelSmoothLoss", label_smooth_val=0.1)
    model = MODELS.build(
        dict(
            type="mmpretrain.ImageClassifier",
            data_preprocessor=dict(num_classes=3),
            backbone=dict(
                type="cropr_mm.CroprViT",
                arch=dict(embed_dim=16, depth=3, num_heads=2, patch_size=8, img_size=32),
                reducer=dict(type="cropr_mm.Cropr", num_classes=3),
                schedule=dict(type="cropr_mm.ConstantRate", rate=4),
                out_type="avg_featmap",
            ),
            head=dict(type="LinearClsHead", num_classes=3, in_channels=16, loss=loss),
            train_cfg=dict(augments=dict(type=augment, alpha=1.0)),
        )
    ).train()
    target = ClassTarget(3, loss)
    logits: dict[int, torch.Tensor] = {}
    for block, reducer in model.backbone.reducers.items():
        reducer.auxiliary.register_forward_hook(
            lambda _, args, out, block=int(block): logits.update({block: out})
        )
    AuxiliaryListener(model, target, loss_weight=1.0)
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 1)]
    batch = dict(inputs=torch.rand(4, 3, 32, 32), data_samples=samples)

    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode="loss")

    scores = torch.stack([s.gt_score for s in data["data_samples"]])
    assert ((scores > 0) & (scores < 1)).any(), "nothing was mixed"
    criterion = MODELS.build(loss)
    for block in (0, 1):
        expected = criterion(logits[block], scores, avg_factor=4)
        torch.testing.assert_close(losses[f"loss_cropr_b{block:02d}"], expected)
