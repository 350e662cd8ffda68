"""Scores of segmenters and classifiers on selections of images, against the host libraries."""

from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image

from experiments.classification_scores import MultiLabelScores, SingleLabelScores
from experiments.segmentation_scores import SegmentationScores, films_of

DRAWN = np.array([3, 0, 3, 1])


@pytest.fixture
def maps(tmp_path: Path) -> tuple[dict, list[np.ndarray], list[np.ndarray]]:
    """A dataset of four label maps with void pixels, the truth, and what a model found."""
    generator = np.random.default_rng(0)
    truth, found = [], []
    for folder in ("images", "labels", "found"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        label = generator.integers(0, 3, size=(6, 8)).astype(np.uint8)
        guess = np.where(generator.random((6, 8)) < 0.4, 1, label).astype(np.uint8)
        label[0, :3] = 255
        Image.fromarray(label).save(tmp_path / f"labels/{i}.png")
        Image.fromarray(label).save(tmp_path / f"images/{i}.png")
        Image.fromarray(guess).save(tmp_path / f"found/{i}.png")
        truth.append(label)
        found.append(guess)
    dataset = dict(
        type="BaseSegDataset",
        data_root=str(tmp_path),
        data_prefix=dict(img_path="images", seg_map_path="labels"),
        img_suffix=".png",
        metainfo=dict(classes=("a", "b", "c"), palette=[[i] * 3 for i in range(3)]),
        pipeline=[],
    )
    return dataset, truth, found


def test_segmentation_is_scored_as_by_mmseg(
    maps: tuple[dict, list[np.ndarray], list[np.ndarray]], tmp_path: Path
) -> None:
    metrics = pytest.importorskip("mmseg.evaluation")
    init_default_scope("mmseg")
    dataset, truth, found = maps
    scores = SegmentationScores(dataset, tmp_path / "found")
    assert scores.num_images == 4
    for selection in (np.arange(4), DRAWN):
        metric = metrics.IoUMetric()
        metric.dataset_meta = dict(classes=("a", "b", "c"))
        samples = [
            dict(
                pred_sem_seg=dict(data=torch.from_numpy(found[i])[None].long()),
                gt_sem_seg=dict(data=torch.from_numpy(truth[i])[None].long()),
            )
            for i in selection
        ]
        metric.process({}, samples)
        oracle = metric.evaluate(len(selection))["mIoU"]
        assert scores(selection)["mIoU"] == pytest.approx(oracle, abs=0.006), "theirs is rounded"


def test_classes_that_no_selected_image_shows_do_not_count(
    maps: tuple[dict, list[np.ndarray], list[np.ndarray]], tmp_path: Path
) -> None:
    init_default_scope("mmseg")
    dataset, _, _ = maps
    for i in range(4):
        for folder in ("labels", "found"):
            Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / f"{folder}/{i}.png")
    assert SegmentationScores(dataset, tmp_path / "found")(DRAWN) == {"mIoU": 100.0}


def test_accuracy_counts_an_image_as_often_as_it_is_drawn(tmp_path: Path) -> None:
    samples = [
        dict(pred_label=torch.tensor([p]), gt_label=torch.tensor([t]))
        for p, t in ((0, 0), (1, 2), (2, 2), (1, 0))
    ]
    mmengine.dump(samples, tmp_path / "p.pkl")
    scores = SingleLabelScores(tmp_path / "p.pkl")
    assert scores.num_images == 4
    assert scores(np.arange(4)) == {"top-1": 50.0}
    assert scores(DRAWN) == {"top-1": 25.0}


def test_average_precision_is_that_of_present_classes(tmp_path: Path) -> None:
    ap = pytest.importorskip("mmpretrain.evaluation").AveragePrecision
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]])
    found = torch.rand(4, 3, generator=generator)
    samples = [
        dict(pred_score=f, gt_label=t.nonzero().flatten())
        for f, t in zip(found, truth, strict=True)
    ]
    mmengine.dump(samples, tmp_path / "p.pkl")
    scores = MultiLabelScores(tmp_path / "p.pkl")
    for selection in (np.arange(4), DRAWN):
        oracle = ap.calculate(found[selection], truth[selection], average=None)[:2].mean()
        assert scores(selection)["mAP"] == pytest.approx(float(oracle))
    assert scores(np.array([1])) == {"mAP": 100.0}, "one class, present"


def test_classes_are_scored_one_by_one(
    maps: tuple[dict, list[np.ndarray], list[np.ndarray]], tmp_path: Path
) -> None:
    pytest.importorskip("mmseg")
    init_default_scope("mmseg")
    scores = SegmentationScores(maps[0], tmp_path / "found")
    by_class = scores.by_class()
    assert list(by_class) == ["a", "b", "c"]
    assert np.mean(list(by_class.values())) == pytest.approx(scores(np.arange(4))["mIoU"])
    assert scores.films == []


def test_frames_of_camvid_are_ordered_by_film_and_number() -> None:
    names = ["Seq05VD_f00060", "0016E5_00901", "Seq05VD_f00030", "0016E5_08001"]
    films = films_of(dict(type="cropr_mm.CamVidDataset"), names)
    assert [film.tolist() for film in films] == [[2, 0], [1, 3]]
    with pytest.raises(ValueError, match=r"a film and the number of a frame, .* got photo"):
        films_of(dict(type="cropr_mm.CamVidDataset"), ["photo"])
