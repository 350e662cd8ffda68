"""Pruning maps: what is recorded, and what is drawn where."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.hooks.pruning_map_hook import PruningMapHook
from cropr_mm.inspection.maps import (
    block_colors,
    draw_cluster_legend,
    draw_clusters,
    draw_legend,
    draw_pruning_map,
)
from cropr_mm.inspection.recorder import PruningRecorder, StepRecorder

SMALL = dict(embed_dim=16, depth=6, num_heads=2, cls_token=False)


def make_backbone(window_size: int | None = 2, **changes: object) -> CroprViT:
    arguments = dict(
        arch=SMALL,
        img_size=(48, 32),
        patch_size=4,
        window_size=window_size,
        global_block_indexes=[2, 5] if window_size else [],
        reducer=dict(type="cropr_mm.Cropr", num_classes=3),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={1: 48, 3: 8}),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
    return CroprViT(**{**arguments, **changes}).eval()


@pytest.mark.parametrize("window_size", [2, None])
def test_records_the_block_after_which_each_patch_left(window_size: int | None) -> None:
    backbone = make_backbone(window_size)
    dropped = {}

    def note(block: int) -> None:
        def hook(module: nn.Module, inputs: tuple, output: tuple) -> None:
            dropped[block] = output.dropped.index

        backbone.reducers[str(block)].register_forward_hook(hook)

    note(1)
    note(3)
    with PruningRecorder(backbone) as recorder, torch.no_grad():
        backbone(torch.randn(2, 3, 48, 32))
    maps = recorder.maps()
    assert maps.shape == (2, 12, 8)
    for image in range(2):
        for block, index in dropped.items():
            left = (maps[image].flatten() == block).nonzero().flatten()
            assert sorted(index[image].tolist()) == left.tolist()
        assert (maps[image] == -1).sum() == 8


def test_a_second_forward_starts_a_new_map_and_hooks_are_removed() -> None:
    backbone = make_backbone()
    images = torch.randn(2, 1, 3, 48, 32)
    with torch.no_grad():
        with PruningRecorder(backbone) as recorder:
            backbone(images[0])
            backbone(images[1])
        second = recorder.maps()
        with PruningRecorder(backbone) as alone:
            backbone(images[1])
    assert torch.equal(second, alone.maps())
    assert not hooks_of(backbone)


def hooks_of(backbone: CroprViT) -> list:
    return [
        hook
        for module in backbone.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


def test_a_forward_that_fails_leaves_no_map_of_the_one_before() -> None:
    backbone = make_backbone()
    with PruningRecorder(backbone) as recorder, torch.no_grad():
        backbone(torch.randn(1, 3, 48, 32))
        with pytest.raises(ValueError, match="multiples of the patch size"):
            backbone(torch.randn(1, 3, 47, 32))
    with pytest.raises(ValueError, match="expected a backbone whose reducers ran"):
        recorder.maps()


def test_steps_are_recorded_between_two_calls_even_after_one_that_failed() -> None:
    model, steps = Detector(make_backbone()), StepRecorder()
    assert steps.stop() is None
    steps.start(model)
    watched = len(hooks_of(model.backbone))
    steps.start(model)  # the first step never ended
    assert len(hooks_of(model.backbone)) == watched
    with torch.no_grad():
        model.backbone(torch.randn(1, 3, 48, 32))
    recorder = steps.stop()
    assert recorder is not None
    assert recorder.maps().shape == (1, 12, 8)
    assert not hooks_of(model.backbone)
    assert steps.stop() is None


def test_without_a_reducer_there_is_no_map() -> None:
    with PruningRecorder(make_backbone()) as recorder:
        pass
    with pytest.raises(ValueError, match="expected a backbone whose reducers ran"):
        recorder.maps()


def test_patches_that_stayed_show_the_image_and_others_their_color() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    left = np.array([[-1, 1], [3, 3]])
    picture = draw_pruning_map(image, left, blocks=[1, 3]).astype(int)
    early, late = block_colors(2).astype(int)
    assert (picture[1, 1] == 100).all()
    assert np.abs(picture[1, 6] - (0.72 * early + 28)).max() <= 1
    assert np.abs(picture[6, 1] - (0.72 * late + 28)).max() <= 1
    assert (picture[4, :] == 255).all(), "a border between blocks"


def test_patches_of_one_token_have_one_color_and_others_show_the_image() -> None:
    image = np.full((8, 12, 3), 100, np.uint8)
    clusters = np.array([[4, 4, 7], [5, -1, 4]])
    picture = draw_clusters(image, clusters)
    cells = picture[2::4, 2::4].astype(int)  # the middle of each patch
    assert (cells[0, 0] == cells[0, 1]).all()
    assert (cells[0, 0] == cells[1, 2]).all(), "also where they do not touch"
    assert np.ptp(cells[0, 0]) > 50, "a color, not a gray"
    assert (cells[0, 2] == 100).all()
    assert (cells[1, 0] == 100).all()
    np.testing.assert_allclose(cells[1, 1], 0.2 * 100 + 0.8 * np.array([12, 14, 18]), atol=1)
    assert (picture[4, :] == 255).all()
    assert (picture[:4, 8] == 255).all(), "a border between tokens"
    assert (picture[1:4, 4] != 255).any(), "none inside of one"


def test_colors_of_tokens_are_those_of_their_first_patch() -> None:
    image = np.full((8, 12, 3), 100, np.uint8)
    before = draw_clusters(image, np.array([[0, 1, 1], [2, 3, 4]]))
    after = draw_clusters(image, np.array([[9, 5, 5], [9, 5, 5]]))
    assert (before[2, 6] == after[2, 6]).all()


def test_an_image_that_does_not_fill_the_grid_shows_its_part_of_the_patches() -> None:
    image = np.full((6, 12, 3), 100, np.uint8)
    clusters = np.array([[0, 1, 2], [0, 3, 3]])
    picture = draw_clusters(image, clusters, filled=(0.75, 2 / 3))
    # Rows of 4 and 2 pixels, columns of 6 and 6: the third column is padding.
    assert (picture[4, 6:] == 255).all()
    assert (picture[:, 6] == 255).all()
    assert np.ptp(picture[5, 9].astype(int)) > 50, "merged with a patch that is not shown"
    assert (picture[1, 9] == 100).all()


MERGE = dict(
    window_size=None,
    reducer=dict(type="cropr_mm.ToMe"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={1: 60, 3: 40}),
    fusion=None,
)


@pytest.mark.parametrize("kind", ["ToMe", "DPCKNN", "SiT"])
def test_merged_patches_have_not_left(kind: str) -> None:
    backbone = make_backbone(**MERGE | dict(reducer=dict(type=f"cropr_mm.{kind}")))
    sources = []
    backbone.reducers["3"].register_forward_hook(lambda _m, _a, out: sources.append(out[0].source))
    with PruningRecorder(backbone) as recorder, torch.no_grad():
        backbone(torch.randn(2, 3, 48, 32))
    assert (recorder.maps() == -1).all()
    assert torch.equal(recorder.clusters().flatten(1), sources[0])


def test_methods_that_drop_have_no_clusters() -> None:
    backbone = make_backbone()
    with PruningRecorder(backbone) as recorder, torch.no_grad():
        backbone(torch.randn(2, 3, 48, 32))
        assert recorder.clusters() is None


@pytest.mark.parametrize("width", [800, 300])
def test_legend_names_every_block_beside_its_color(width: int) -> None:
    blocks = list(range(2, 24))
    legend = draw_legend(width, blocks)
    assert legend.shape[1] == width
    assert len(legend) > len(draw_legend(800, [3])), "it goes on in another line"
    for color in block_colors(len(blocks)):
        rows, columns = np.nonzero((legend == color).all(axis=2))
        right, line = columns.max(), slice(rows.min(), rows.max())
        assert 180 <= len(rows) <= 17 * 17, "one square of it"
        number = legend[line, right + 5 : right + 15]
        assert (number < 100).any(), "its number follows"


class Detector(nn.Module):
    """A model with a backbone."""

    def __init__(self, backbone: CroprViT) -> None:
        super().__init__()
        self.backbone = backbone


@pytest.fixture
def runner(tmp_path: Path) -> SimpleNamespace:
    visualizer = DetLocalVisualizer(
        vis_backends=[dict(type="LocalVisBackend")], save_dir=str(tmp_path / "backend")
    )
    visualizer.dataset_meta = dict(classes=("digit",), palette=[(0, 255, 0)])
    model = Detector(make_backbone())
    return SimpleNamespace(
        model=model, visualizer=visualizer, work_dir=str(tmp_path), iter=0, train_loop=None
    )


def sample(folder: Path) -> DetDataSample:
    """An image of 80 x 64 pixels that was halved and then padded to 48 x 32."""
    file = folder / "photo.png"
    cv2.imwrite(str(file), np.full((80, 64, 3), 120, np.uint8))
    mask = torch.zeros(1, 80, 64, dtype=torch.bool)
    mask[0, 10:40, 10:30] = True
    instances = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 30, 40]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([0]),
        masks=mask,
    )
    result = DetDataSample(
        pred_instances=instances,
        metainfo=dict(img_path=str(file), img_shape=(40, 32), ori_shape=(80, 64)),
    )
    return result


def drive(hook: PruningMapHook, runner: SimpleNamespace, output: DetDataSample) -> None:
    hook.before_test_iter(runner, 0)
    with torch.no_grad():
        runner.model.backbone(torch.randn(1, 3, 48, 32))
    hook.after_test_iter(runner, 0, None, [output])


def test_draws_detections_beside_the_map_into_a_file_and_the_backends(
    runner: SimpleNamespace, tmp_path: Path
) -> None:
    output = sample(tmp_path)
    drive(PruningMapHook(interval=1), runner, output)
    picture = cv2.imread(str(tmp_path / "vis" / "photo.png"))
    legend = picture[80 * 6 :]
    width = picture.shape[1]
    assert np.array_equal(legend[..., ::-1], draw_legend(width, [1, 3]))
    picture = picture[: 80 * 6]
    assert width == 2 * 64 * 6 + 8
    detections, pruning = picture[:, : 64 * 6], picture[:, 64 * 6 + 8 :]
    edge = np.abs(detections.astype(int) - 120).max(axis=2) > 20
    assert edge[58:63, 60:180].any(axis=0).all(), "the box is enlarged with the image"
    assert not edge[:50].any()
    assert (pruning != 120).any(), "patches are covered"
    assert [*(tmp_path / "backend").rglob("pruning_map_photo_0.png")]
    assert torch.equal(output.pred_instances.bboxes, torch.tensor([[10.0, 10, 30, 40]]))


def test_merged_patches_are_drawn_as_tokens(runner: SimpleNamespace, tmp_path: Path) -> None:
    runner.model = Detector(make_backbone(**MERGE))
    hook = PruningMapHook(interval=1)
    hook.before_test_iter(runner, 0)
    with torch.no_grad():
        runner.model.backbone(torch.randn(1, 3, 48, 32))
    clusters = hook._steps.recorder.clusters()[0].numpy()
    hook.after_test_iter(runner, 0, None, [sample(tmp_path)])
    picture = cv2.imread(str(tmp_path / "vis" / "photo.png"))[..., ::-1]
    assert np.array_equal(picture[80 * 6 :], draw_cluster_legend(picture.shape[1]))
    image = np.full((480, 384, 3), 120, np.uint8)
    expected = draw_clusters(image, clusters, filled=(40 / 48, 1.0))
    assert np.array_equal(picture[:480, 384 + 8 :], expected)
    assert (expected[24::48, 24::48] != 120).any(axis=2).sum() >= 20, "20 of 96 were merged"


def test_the_map_is_cut_at_the_padding(runner: SimpleNamespace, tmp_path: Path) -> None:
    hook = PruningMapHook(interval=1)
    hook.before_test_iter(runner, 0)
    recorder = hook._steps.recorder
    recorder.left_after = torch.full((1, 12, 8), 1)  # 48 x 32 pixels, of which 40 x 32 are image
    recorder.left_after[:, 10:] = -1  # all of the padding stayed
    hook.after_test_iter(runner, 0, None, [sample(tmp_path)])
    pruning = cv2.imread(str(tmp_path / "vis" / "photo.png"))[: 80 * 6, 64 * 6 + 8 :]
    assert (pruning == pruning[0, 0]).all(), "no padding is shown"


def test_interval_and_limit_are_kept(runner: SimpleNamespace, tmp_path: Path) -> None:
    hook = PruningMapHook(interval=2, max_images=1)
    hook.before_test_epoch(runner)
    hook.before_test_iter(runner, 1)
    assert hook._steps.recorder is None
    drive(hook, runner, sample(tmp_path))
    hook.before_test_iter(runner, 2)
    assert hook._steps.recorder is None
    hook.before_test_epoch(runner)
    hook.before_test_iter(runner, 0)
    assert hook._steps.recorder is not None


def test_validation_is_drawn_only_on_request(runner: SimpleNamespace) -> None:
    for wanted in (False, True):
        hook = PruningMapHook(draw_val=wanted)
        hook.before_val_iter(runner, 0)
        assert (hook._steps.recorder is not None) == wanted


def test_bad_use_is_named(runner: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="interval and max_images of at least 1, got 0"):
        PruningMapHook(interval=0)
    runner.model.test_cfg = dict(mode="slide")
    with pytest.raises(ValueError, match=r"one pass of the encoder per image, .*mode='slide'"):
        PruningMapHook().before_test(runner)
    PruningMapHook().before_val(runner)  # draws nothing
    with pytest.raises(ValueError, match="mode='slide'"):
        PruningMapHook(draw_val=True).before_val(runner)
    runner.model = Detector(make_backbone(reducer=None, schedule=None, fusion=None))
    with pytest.raises(ValueError, match="expected a model with a pruned backbone"):
        PruningMapHook().before_test_iter(runner, 0)
