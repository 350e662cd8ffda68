"""What of a model becomes a graph: its encoder, or all of it up to the scores of each class.

B batch, H, W pixels of the input.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.detector import DetectorPart
from cropr_mm.export.source import Source
from cropr_mm.structures import Reduction


class EncoderPart(nn.Module):
    """The encoder alone.

    Args:
        backbone: The encoder.
    """

    task = "encoder"

    def __init__(self, backbone: CroprViT) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """From normalized images (B, 3, H, W) to the encoder's outputs.

        Mask queries add two: logits of their classes (B, Q, K + 1) and masks (B, Q, h, w).
        """
        outputs = self.backbone(images)
        if self.backbone.mask_queries is None:
            return outputs
        *maps, predictions = outputs
        return (*maps, predictions.classes[-1], predictions.masks[-1])


class SegmenterPart(nn.Module):
    """A whole segmenter of mmseg up to its logits at the size of the input.

    Args:
        model: ``EncoderDecoder``.
    """

    task = "segmenter"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """From normalized images (B, 3, H, W) to logits (B, classes, H, W)."""
        size = tuple(images.shape[-2:])
        metas = [dict(img_shape=size, pad_shape=size)] * len(images)
        features = self.model.extract_feat(images)
        return (self.model.decode_head.predict(features, metas, self.model.test_cfg),)


class ClassifierPart(nn.Module):
    """A whole classifier of mmpretrain up to the scores of the classes.

    Args:
        model: ``ImageClassifier``.
        exclusive: Whether an image has one class (softmax) or any number (sigmoid).
    """

    task = "classifier"

    def __init__(self, model: nn.Module, exclusive: bool) -> None:
        super().__init__()
        self.model = model
        self.exclusive = exclusive

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """From normalized images (B, 3, H, W) to scores (B, classes)."""
        logits = self.model.head(self.model.extract_feat(images))
        return (logits.softmax(dim=1) if self.exclusive else logits.sigmoid(),)


class WithKeptIds(nn.Module):
    """A part whose outputs are followed by the raster ids that each step kept.

    Args:
        part: Part of a model.
        backbone: The encoder in it.
    """

    def __init__(self, part: nn.Module, backbone: CroprViT) -> None:
        super().__init__()
        self.part = part
        self.backbone = backbone

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The part's outputs for its inputs, then ids (B, K) of each step, int64."""
        kept: list[Tensor] = []
        reducers: Sequence[nn.Module] = [*self.backbone.reducers.values()]

        def note(reducer: nn.Module, args: tuple, result: Reduction) -> None:
            kept.append(result.kept.index)

        handles = [reducer.register_forward_hook(note) for reducer in reducers]
        try:
            outputs = self.part(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return (*outputs, *kept)


def make_part(source: Source, name: str) -> nn.Module:
    """The part of a model that is exported.

    Args:
        source: The model.
        name: 'encoder' or 'model'.

    Raises:
        SetupError: If the whole model is of a kind that has no form for export.
    """
    if name == "encoder":
        return EncoderPart(source.backbone)
    model = source.model
    kind = type(model).__name__
    if kind == "EncoderDecoder" and source.scope == "mmseg":
        if model.test_cfg.get("mode") == "slide":
            raise SetupError("expected test_cfg.mode='whole', got 'slide', several passes an image")
        if model.out_channels == 1:
            raise SetupError("expected a logit of each class, got one channel for two classes")
        return SegmenterPart(model)
    if kind == "ImageClassifier" and source.scope == "mmpretrain":
        parents = [parent.__name__ for parent in type(model.head).__mro__]
        if "ClsHead" in parents or "MultiLabelClsHead" in parents:
            return ClassifierPart(model, exclusive="ClsHead" in parents)
        raise SetupError(
            f"expected a head of kind ClsHead or MultiLabelClsHead, got {type(model.head).__name__}"
        )
    parents = [parent.__name__ for parent in type(model).__mro__]
    if "TwoStageDetector" in parents and getattr(model, "with_rpn", False):
        return DetectorPart(model)
    raise SetupError(
        f"expected a whole EncoderDecoder, ImageClassifier or two-stage detector, got {kind}: "
        "--part encoder exports the encoder of any model"
    )
