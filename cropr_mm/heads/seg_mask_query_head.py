"""Semantic segmentation by queries that went through the encoder."""

from typing import Any

from mmseg.models.decode_heads import Mask2FormerHead
from torch import Tensor

from cropr_mm.heads.mask_query_head import MaskQueryHead
from cropr_mm.registry import MODELS


@MODELS.register_module()
class SegMaskQueryHead(MaskQueryHead, Mask2FormerHead):
    """:class:`MaskQueryHead` for mmseg's ``EncoderDecoder``, with targets and maps of mmseg's head.

    Args:
        num_classes: Classes of the label maps.
        num_queries: That of the encoder.
        loss_cls: As for :class:`MaskQueryHead`.
        loss_mask: As for :class:`MaskQueryHead`.
        loss_dice: As for :class:`MaskQueryHead`.
        train_cfg: As for :class:`MaskQueryHead`.
        ignore_index: Label of pixels without a class.
        align_corners: How maps are resized.
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        loss_cls: dict[str, Any],
        loss_mask: dict[str, Any],
        loss_dice: dict[str, Any],
        train_cfg: dict[str, Any] | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__(
            num_things_classes=num_classes,
            num_stuff_classes=0,
            num_queries=num_queries,
            loss_cls=loss_cls,
            loss_mask=loss_mask,
            loss_dice=loss_dice,
            train_cfg=train_cfg,
        )
        self.out_channels = num_classes
        self.ignore_index = ignore_index
        self.align_corners = align_corners

    def predict(
        self, x: tuple[Any, ...], batch_img_metas: list[dict[str, Any]], test_cfg: dict[str, Any]
    ) -> Tensor:
        """Scores of classes (B, K, H, W) at the size of the images, or of a window of them."""
        if test_cfg["mode"] == "slide":  # the base reads pad_shape, that of the whole image
            batch_img_metas = [{**meta, "pad_shape": meta["img_shape"]} for meta in batch_img_metas]
        return super().predict(x, batch_img_metas, test_cfg)
