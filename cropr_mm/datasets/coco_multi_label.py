"""Multi-label classification on the annotations of a detection data set in COCO's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from cropr_mm.registry import DATASETS


@DATASETS.register_module()
class CocoMultiLabelDataset(BaseDataset):
    """Images of a COCO json with the set of classes that are in them.

    Every annotation counts, crowds too. An image without annotations has an empty set and stays.
    Arguments are those of mmengine's ``BaseDataset``; ``data_prefix=dict(img_path=...)`` is the
    folder of the images. Labels follow the order of ``metainfo['classes']``; without it the classes
    are the categories of the file in their order.

    Each sample has ``img_path``, ``img_id`` and ``gt_label``, int64, ascending, shape (n,).

    Raises:
        ValueError: If the file is not COCO's form, or lacks one of the classes.

    Source: Haurum et al., "Which Tokens to Use?", multi-label COCO.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read images and their label sets from the annotation file."""
        content = self._read()
        try:
            return self._samples(content)
        except KeyError as error:
            raise ValueError(
                f"{self.ann_file}: expected COCO's form, an entry has no {error}"
            ) from error

    def _samples(self, content: dict[str, Any]) -> list[dict[str, Any]]:
        names = [category["name"] for category in content["categories"]]
        classes = list(self._metainfo.setdefault("classes", tuple(names)))
        missing = [name for name in classes if name not in names]
        if missing:
            raise ValueError(
                f"{self.ann_file}: expected categories for all {len(classes)} classes of the "
                f"dataset, got none named {', '.join(missing[:8])}"
            )
        label = {
            c["id"]: classes.index(c["name"]) for c in content["categories"] if c["name"] in classes
        }
        present: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
        for annotation in content["annotations"]:
            image, category = annotation["image_id"], annotation["category_id"]
            if image in present and category in label:
                present[image].add(label[category])
        folder = Path(self.data_prefix["img_path"])
        return [
            dict(
                img_path=str(folder / image["file_name"]),
                img_id=image["id"],
                gt_label=np.array(sorted(present[image["id"]]), dtype=np.int64),
            )
            for image in content["images"]
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of one image, for class-balanced sampling."""
        return self.get_data_info(idx)["gt_label"].tolist()

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(Path(self.ann_file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.ann_file} is not valid json: {error}") from error
        keys = ("images", "annotations", "categories")
        if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
            got = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{self.ann_file}: expected lists {', '.join(keys)}, got {got}")
        return content
