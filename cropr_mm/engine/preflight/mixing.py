"""Mixed images of mmpretrain: their labels are vectors of as many classes as there are."""

from torch import nn

from cropr_mm.engine.preflight.errors import SetupError


def check_mixing(model: nn.Module) -> None:
    """Mixup and CutMix know the number of classes.

    Args:
        model: Built model; all but mmpretrain's data preprocessors pass.

    Raises:
        SetupError: If labels become vectors of an unknown length.
    """
    preprocessor = getattr(model, "data_preprocessor", None)
    if getattr(preprocessor, "to_onehot", False) and not getattr(preprocessor, "num_classes", None):
        mixing = getattr(preprocessor, "batch_augments", None)
        names = ", ".join(type(step).__name__ for step in getattr(mixing, "augments", ()))
        raise SetupError(
            f"labels become vectors with {names or 'to_onehot=True'}: expected their length in "
            "model.data_preprocessor=dict(num_classes=...), got none"
        )


def mixes_images(preprocessor: nn.Module) -> bool:
    """Whether a data preprocessor mixes the images of a training batch, as mmpretrain's can."""
    return hasattr(getattr(preprocessor, "batch_augments", None), "augments")
