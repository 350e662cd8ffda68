"""A runner around one linear layer: real hooks and checkpoints in milliseconds."""

from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.data import Dataset


class Numbers(Dataset):
    """Vectors whose samples name a file."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = BaseDataElement(metainfo=dict(img_path=f"image_{index}.jpg"))
        return dict(inputs=torch.full((2,), float(index)), data_samples=sample)


class Linear(BaseModel):
    """Loss of image 5 is multiplied, with which a test makes it NaN or infinite."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1)
        self.factor = factor

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        y = self.fc(torch.stack(list(inputs)))
        if mode == "loss":
            hit = any("image_5" in sample.img_path for sample in data_samples)
            return dict(
                loss_a=y.square().mean() * (self.factor if hit else 1), loss_b=y.abs().mean()
            )
        return list(data_samples)


class Score(BaseMetric):
    """Goes up with each validation."""

    value = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.value += 1
        return dict(acc=self.value)


def toy_runner(work_dir: Path, factor: float = 1.0, **changes: Any) -> Runner:
    """Eight iterations on one image each, in order; a checkpoint after each two."""
    loader = dict(
        dataset=Numbers(),
        batch_size=1,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="pseudo_collate"),
    )
    checkpoint = dict(
        type="cropr_mm.AtomicCheckpointHook", interval=2, by_epoch=False, max_keep_ckpts=2
    )
    cfg: dict[str, Any] = dict(
        model=Linear(factor),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=8, val_interval=100),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1e-3)),
        default_hooks=dict(
            checkpoint=checkpoint, finite_loss=dict(type="cropr_mm.FiniteLossHook", interval=50)
        ),
        log_level="ERROR",
        experiment_name=work_dir.name,
    )
    cfg.update(changes)
    return Runner(**cfg)


def weights(file: Path) -> Tensor:
    """The layer's weights in a checkpoint."""
    return torch.load(file, weights_only=False)["state_dict"]["fc.weight"]
