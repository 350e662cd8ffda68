"""Digits as things on one kind of stuff, in COCO's panoptic form."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoPanopticDataset
from pycocotools.coco import COCO

THINGS = CocoPanopticDataset.METAINFO["thing_classes"]
STUFF = CocoPanopticDataset.METAINFO["stuff_classes"]


def write_panoptic(instances: Path, out: Path, folder: Path) -> None:
    """Write label images and their annotations.

    Args:
        instances: COCO annotations of digits with the ids 1 to 80 of things.
        out: JSON file to write.
        folder: Place of the label images.
    """
    coco = COCO(str(instances))
    folder.mkdir()
    names = [*THINGS, *STUFF]
    annotations = []
    for image in coco.dataset["images"]:
        # A segment's number is its color: red + 256 green + 65536 blue.
        ids = np.ones((image["height"], image["width"]), dtype=np.uint8)
        found = coco.imgToAnns[image["id"]]
        for number, annotation in enumerate(found, start=2):
            ids[coco.annToMask(annotation) > 0] = number
        categories = [len(THINGS) + 1, *(annotation["category_id"] for annotation in found)]
        file = f"{Path(image['file_name']).stem}.png"
        cv2.imwrite(str(folder / file), np.stack([0 * ids, 0 * ids, ids], axis=-1))  # BGR
        segments = [
            _segment(ids == number, number, category)
            for number, category in enumerate(categories, start=1)
            if (ids == number).any()
        ]
        annotations.append(dict(image_id=image["id"], file_name=file, segments_info=segments))
    kinds = [
        dict(id=i, name=name, isthing=int(i <= len(THINGS)), color=[i, i, i])
        for i, name in enumerate(names, start=1)
    ]
    images = coco.dataset["images"]
    out.write_text(json.dumps(dict(images=images, annotations=annotations, categories=kinds)))


def _segment(mask: np.ndarray, number: int, category: int) -> dict[str, Any]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    box = [int(x) for x in (columns[0], rows[0], width, height)]
    return dict(id=number, category_id=category, area=int(mask.sum()), bbox=box, iscrowd=0)
