"""Mask head with the initialization of detectron2 and scores of its own for masks.

R regions, K classes, h x w cells of a predicted mask.
"""

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from cropr_mm.ops.maskness import maskness
from cropr_mm.registry import MODELS


@MODELS.register_module()
class ConvUpsampleMaskHead(FCNMaskHead):
    """FCNMaskHead that can score masks by maskness; arguments as its base.

    With ``maskness_thr`` in the test settings, detections get ``mask_scores``: their score times
    the maskness of the predicted grid. mmdet's CocoMetric ranks masks by it and boxes by the plain
    score.

    Source: initialization as in detectron2, modeling/roi_heads/mask_head.py; maskness as in EVA,
    EVA-02/det/detectron2/modeling/roi_heads/cascade_rcnn.py, which changes the one score that
    boxes are ranked by too, and is therefore switched off there for box AP.
    """

    def init_weights(self) -> None:
        """Initialize the weights, those of the logits with a deviation of 0.001."""
        super().init_weights()
        nn.init.normal_(self.conv_logits.weight, std=0.001)

    def predict_by_feat(
        self,
        mask_preds: Sequence[Tensor],
        results_list: list[InstanceData],
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> list[InstanceData]:
        """Masks of all images; scores are multiplied by maskness where it is asked for."""
        threshold = rcnn_test_cfg.get("maskness_thr")
        if threshold is not None:
            for results, masks in zip(results_list, mask_preds, strict=True):
                channels = results.labels * (not self.class_agnostic)
                own = masks[torch.arange(len(masks), device=masks.device), channels]
                own = own if activate_map else own.sigmoid()
                results.mask_scores = results.scores * maskness(own, threshold)
        return super().predict_by_feat(
            mask_preds, results_list, batch_img_metas, rcnn_test_cfg, rescale, activate_map
        )
