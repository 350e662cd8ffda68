"""mmdet's DetInferencer runs our configs with checkpoints that training and deploying wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS

from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train
from cropr_mm.export.deploy import deploy_checkpoint

CONFIG = str(Path(__file__).parents[2] / "configs/demo/cropr_tiny_cascade_digits.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Config of a model that was trained for one iteration; its work_dir has the checkpoint."""
    folder = tmp_path_factory.mktemp("inferencer")
    make_demo_data(folder / "data", DemoSettings(num_train=2, num_val=2))
    cfg = load_config(CONFIG, str(folder / "work"))
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(folder / "data")
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.train_cfg.max_iters = 1
    cfg.test_cfg = cfg.test_evaluator = None
    cfg.model.test_cfg.rcnn.score_thr = 0.0  # one iteration has taught it nothing
    loader, cfg.test_dataloader = cfg.test_dataloader, None
    train(cfg)
    cfg.test_dataloader = loader
    return cfg


def test_inferencer_predicts_what_the_model_predicts(trained: Config) -> None:
    inferencer = DetInferencer(model=trained, weights=checkpoint(trained), device="cpu")
    assert inferencer.model.dataset_meta["classes"][:2] == ("zero", "one")
    dataset = DATASETS.build(trained.test_dataloader.dataset)
    image = dataset.get_data_info(0)["img_path"]
    found = inferencer(image, no_save_vis=True)["predictions"][0]
    with torch.no_grad():
        sample = inferencer.model.test_step(pseudo_collate([dataset[0]]))[0]
    assert len(found["scores"]) > 0
    np.testing.assert_allclose(found["scores"], sample.pred_instances.scores, atol=1e-5)
    np.testing.assert_allclose(found["bboxes"], sample.pred_instances.bboxes, atol=1e-3)
    assert len(found["masks"]) == len(found["scores"])


def test_inferencer_takes_pictures_of_any_shape(trained: Config) -> None:
    inferencer = DetInferencer(model=trained, weights=checkpoint(trained), device="cpu")
    picture = np.random.default_rng(0).integers(256, size=(177, 300, 3), dtype=np.uint8)
    (found,) = inferencer(picture, no_save_vis=True)["predictions"]
    assert len(found["scores"]) > 0


def test_inferencer_runs_the_deployed_checkpoint(trained: Config) -> None:
    stripped = str(Path(trained.work_dir) / "deployed.pth")
    deploy_checkpoint(trained, checkpoint(trained), stripped)
    deployed = Config(trained.to_dict())
    deployed.model.backbone.deploy = True
    image = DATASETS.build(trained.test_dataloader.dataset).get_data_info(0)["img_path"]
    scores = [
        DetInferencer(model=cfg, weights=weights, device="cpu")(image, no_save_vis=True)
        for cfg, weights in ((trained, checkpoint(trained)), (deployed, stripped))
    ]
    first, second = (result["predictions"][0]["scores"] for result in scores)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_training_checkpoint_runs_in_a_deployed_config(trained: Config) -> None:
    deployed = Config(trained.to_dict())
    deployed.model.backbone.deploy = True
    image = DATASETS.build(trained.test_dataloader.dataset).get_data_info(0)["img_path"]
    scores = [
        inference_detector(init_detector(cfg, checkpoint(trained), device="cpu"), image)
        for cfg in (trained, deployed)
    ]
    first, second = (sample.pred_instances.scores for sample in scores)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_deployed_checkpoint_is_refused_by_a_config_for_training(trained: Config) -> None:
    stripped = str(Path(trained.work_dir) / "stripped.pth")
    deploy_checkpoint(trained, checkpoint(trained), stripped)
    for load in (
        lambda: DetInferencer(model=trained, weights=stripped, device="cpu"),
        lambda: init_detector(trained, stripped, device="cpu"),
    ):
        with pytest.raises(RuntimeError, match=r"query belongs to a deployed checkpoint"):
            load()


def checkpoint(cfg: Config) -> str:
    return str(Path(cfg.work_dir) / "iter_1.pth")
