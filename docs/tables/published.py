"""Published metrics and costs of configs, by the name of the config."""

COCO = "Token Cropr, table 3"
ADE20K = "Token Cropr, table 5"
IMAGENET = "Token Cropr, table 1"
EVA02 = "Token Cropr, table 2"

DETECTION = ("Instance Segmentation", "COCO 2017", ("box AP", "mask AP"))
SEGMENTATION = ("Semantic Segmentation", "ADE20k", ("mIoU",))
CLASSIFICATION = ("Image Classification", "ImageNet-1k", ("top-1",))
BIRDS = ("Image Classification", "NABirds", ("top-1",))

RESULTS: dict[str, tuple[tuple[str, str, tuple[str, ...]], tuple[float, ...], str]] = {
    "unpruned_eva02_cascade_coco": (DETECTION, (64.2, 55.4), COCO),
    "random_eva02_cascade_coco": (DETECTION, (60.6, 51.9), COCO),
    "variance_eva02_cascade_coco": (DETECTION, (62.0, 53.0), COCO),
    "attn_topk_eva02_cascade_coco": (DETECTION, (62.6, 53.6), COCO),
    "cropr_eva02_cascade_coco": (DETECTION, (63.0, 54.0), COCO),
    "unpruned_eva02_segmenter_ade20k": (SEGMENTATION, (56.7,), ADE20K),
    "cropr_eva02_segmenter_ade20k": (SEGMENTATION, (56.6,), ADE20K),
    "dtop_eva02_segmenter_ade20k": (SEGMENTATION, (50.1,), ADE20K),
    "unpruned_vitl_mae_in1k": (CLASSIFICATION, (85.8,), IMAGENET),
    "non_salient_vitl_mae_in1k": (CLASSIFICATION, (76.4,), IMAGENET),
    "random_vitl_mae_in1k": (CLASSIFICATION, (83.8,), IMAGENET),
    "variance_vitl_mae_in1k": (CLASSIFICATION, (84.3,), IMAGENET),
    "attn_topk_vitl_mae_in1k": (CLASSIFICATION, (84.7,), IMAGENET),
    "cropr_vitl_mae_in1k": (CLASSIFICATION, (85.3,), IMAGENET),
    "tome_vitl_mae_in1k": (CLASSIFICATION, (85.0,), IMAGENET),
    "cropr_vitl_mae_in1k_nofusion": (CLASSIFICATION, (85.1,), IMAGENET),
    "cropr_vitl_mae_in1k_3stage": (CLASSIFICATION, (85.4,), IMAGENET),
    "cropr_vitl_mae_in1k_3stage_fusion": (CLASSIFICATION, (85.5,), IMAGENET),
    "unpruned_eva02_in1k_448": (CLASSIFICATION, (89.9,), EVA02),
    "cropr_eva02_in1k_448": (CLASSIFICATION, (89.7,), EVA02),
    "cropr_eva02_in1k_448_single": (CLASSIFICATION, (88.8,), EVA02),
    "unpruned_vitb_nabirds": (BIRDS, (83.32,), 'Haurum et al., "Which Tokens to Use?", supplement'),
}
"""Task, data set and names of the metrics; their values, in percent; the source."""

COSTS: dict[str, tuple[str, str]] = {
    "unpruned_eva02_cascade_coco": ("EVA-02-L, COCO, 1536 px", "2790"),
    "cropr_eva02_cascade_coco": ("", "1273"),
    "unpruned_eva02_segmenter_ade20k": ("EVA-02-L segmenter, ADE20k, 512 px", "311"),
    "cropr_eva02_segmenter_ade20k": ("", "183"),
    "unpruned_vitl_mae_in1k": ("ViT-L, ImageNet-1k, 224 px", "-"),
    "cropr_vitl_mae_in1k": ("", "34.2"),
    "unpruned_eva02_in1k_448": ("EVA-02-L, ImageNet-1k, 448 px", "310"),
    "cropr_eva02_in1k_448": ("", "180"),
    "cropr_eva02_in1k_448_single": ("", "70"),
}
"""Encoder, data set and image size, empty where they are those of the row above; printed GMACs."""

ENCODER_ONLY_COSTS: dict[str, tuple[str, str]] = {
    "unpruned_dinov2s_eomt_coco_panoptic": ("EoMT-S, 640 px", "-"),
    "cropr_dinov2s_eomt_coco_panoptic": ("pruned", "-"),
    "unpruned_dinov2b_eomt_coco_panoptic": ("EoMT-B, 640 px", "-"),
    "cropr_dinov2b_eomt_coco_panoptic": ("pruned", "-"),
    "unpruned_dinov2l_eomt_coco_panoptic": ("EoMT-L, 640 px", "669 (316 M parameters)"),
    "cropr_dinov2l_eomt_coco_panoptic": ("pruned", "-"),
    "unpruned_dinov2l_eomt_coco_1280_panoptic": ("EoMT-L, 1280 px", "-"),
    "cropr_dinov2l_eomt_coco_1280_panoptic": ("pruned", "-"),
}
"""Model; GFLOPs of EoMT (arXiv 2503.19108), table 1, with attention."""

HYBRID_COSTS: dict[str, tuple[str, str]] = {
    "unpruned_cvt13_in1k": ("CvT-13", "4.5"),
    "dtps_cvt13_in1k": ("CvT-13, dTPS, half kept three times", "-"),
    "unpruned_cvt21_in1k": ("CvT-21", "7.1"),
    "dtps_cvt21_in1k": ("CvT-21, dTPS, half kept three times", "-"),
    "unpruned_psvitb_in1k": ("PS-ViT-B/14", "5.4"),
    "dtps_psvitb_in1k": ("PS-ViT-B/14, dTPS, half kept three times", "-"),
}
"""Encoder and method; GFLOPs of the READMEs of microsoft/CvT and yuexy/PS-ViT, with attention."""
