"""NUS-WIDE: which of 81 concepts are in an image, for classification with mmpretrain."""

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from cropr_mm.datasets.text_lists import read_lines
from cropr_mm.registry import DATASETS

_SPLITS = {"train": "Train", "test": "Test"}


@DATASETS.register_module()
class NUSWideDataset(BaseDataset):
    """NUS-WIDE in the layout of its publisher.

    An image without any concept has an empty set and stays. Each sample has ``img_path`` and
    ``gt_label``, int64, ascending, shape (n,).

    Args:
        data_root: Folder with ``Flickr/``, ``ImageList/``, ``ConceptsList/Concepts81.txt`` and
            ``Groundtruth/TrainTestLabels/``.
        split: 'train' or 'test'.
        **kwargs: Other arguments of mmengine's ``BaseDataset``.

    Raises:
        ValueError: If ``split`` is none of these, or a list of labels has not one for each image.
        FileNotFoundError: If one of the files is missing.

    Source: Chua et al., NUS-WIDE: a real-world web image database (CIVR 2009).
    """

    def __init__(self, data_root: str, split: str, **kwargs: Any) -> None:
        if split not in _SPLITS:
            raise ValueError(f"expected split {' or '.join(_SPLITS)}, got {split!r}")
        self.split = split
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Samples of the split, in the order of the published list."""
        root, split = Path(self.data_root), _SPLITS[self.split]
        images = read_lines(root / f"ImageList/{split}Imagelist.txt")
        concepts = read_lines(root / "ConceptsList/Concepts81.txt")
        self._metainfo.setdefault("classes", tuple(concepts))
        present = np.zeros((len(images), len(concepts)), dtype=bool)
        for column, concept in enumerate(concepts):
            file = root / f"Groundtruth/TrainTestLabels/Labels_{concept}_{split}.txt"
            marks = read_lines(file)
            if len(marks) != len(images):
                raise ValueError(
                    f"{file}: expected a line for each of {len(images)} images, got {len(marks)}"
                )
            present[:, column] = [mark == "1" for mark in marks]
        return [  # the list is written with the separators of another system
            dict(
                img_path=str(root / "Flickr" / image.replace("\\", "/")), gt_label=row.nonzero()[0]
            )
            for image, row in zip(images, present, strict=True)
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of one image, for class-balanced sampling."""
        return self.get_data_info(idx)["gt_label"].tolist()
