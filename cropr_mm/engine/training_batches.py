"""A fixed sample of the training data, for what looks at a trained model."""

from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from torch import nn

from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.mixing import mixes_images


def training_batches(cfg: Config, model: nn.Module, images: int) -> list[dict[str, Any]]:
    """First batches of the training data in a fixed random order, augmented once, in memory.

    Images are not mixed with each other (Mixup, CutMix), since no image of a test is.

    Args:
        cfg: Config with a ``train_dataloader``.
        model: Model whose data preprocessor they pass.
        images: How many images, rounded up to whole batches.

    Raises:
        SetupError: If there are fewer, or the data are not there.
    """
    settings = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    for key in ("persistent_workers", "prefetch_factor", "batch_sampler"):
        settings.pop(key, None)
    settings["drop_last"] = False  # a small set has no whole batch
    settings["sampler"] = dict(type="DefaultSampler", shuffle=True)
    set_random_seed(0)  # of augmentation
    try:
        loader = Runner.build_dataloader(settings, seed=0)
    except FileNotFoundError as error:
        raise SetupError(f"train_dataloader.dataset: no file or folder {error.filename}") from error
    if len(loader.dataset) < images:
        raise SetupError(
            f"expected at least {images} training images, got {len(loader.dataset)}: "
            "set a smaller --images"
        )
    preprocess = model.data_preprocessor
    batches: list[dict[str, Any]] = []
    taken = 0
    for data in loader:
        batches.append(preprocess(data, training=not mixes_images(preprocess)))
        taken += len(data["inputs"])
        if taken >= images:
            break
    return batches
