"""Classification on annotations in COCO's format, one class an image."""

from typing import Any

from cropr_mm.datasets.coco_multi_label import CocoMultiLabelDataset
from cropr_mm.registry import DATASETS


@DATASETS.register_module()
class CocoSingleLabelDataset(CocoMultiLabelDataset):
    """Images of a COCO json with one class each, such as iNaturalist 2019.

    Arguments are those of :class:`CocoMultiLabelDataset`. Each sample has ``img_path``, ``img_id``
    and ``gt_label``, an int.

    Raises:
        ValueError: If the file is not in COCO's form, lacks a class, or an image has no class or
            several.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Samples in the order of the file's images."""
        samples = super().load_data_list()
        for sample in samples:
            labels = sample["gt_label"].tolist()
            if len(labels) != 1:
                raise ValueError(
                    f"{self.ann_file}: expected one class for each image, got {len(labels)} for "
                    f"{sample['img_path']}"
                )
            sample["gt_label"] = labels[0]
        return samples

    def get_cat_ids(self, idx: int) -> list[int]:
        """Label of one image, for class-balanced sampling."""
        return [self.get_data_info(idx)["gt_label"]]
