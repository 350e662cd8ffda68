"""NABirds: 555 classes of birds, for classification with mmpretrain."""

from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from cropr_mm.datasets.text_lists import read_pairs
from cropr_mm.registry import DATASETS

_SPLITS = {"train": "1", "test": "0"}


@DATASETS.register_module()
class NABirdsDataset(BaseDataset):
    """NABirds in the layout of its publisher.

    The published class ids are nodes of a hierarchy with gaps between them; labels count the ids
    that images have, in ascending order. Each sample has ``img_path`` and ``gt_label``, an int.

    Args:
        data_root: Folder with ``images/``, ``images.txt``, ``image_class_labels.txt``,
            ``train_test_split.txt`` and ``classes.txt``.
        split: 'train' or 'test'.
        **kwargs: Other arguments of mmengine's ``BaseDataset``.

    Raises:
        ValueError: If ``split`` is none of these, or an image lacks its class or split.
        FileNotFoundError: If one of the files is missing.

    Source: Van Horn et al., Building a bird recognition app and large scale dataset with citizen
    scientists (CVPR 2015).
    """

    def __init__(self, data_root: str, split: str, **kwargs: Any) -> None:
        if split not in _SPLITS:
            raise ValueError(f"expected split {' or '.join(_SPLITS)}, got {split!r}")
        self.split = split
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Samples of the split, in the order of ``images.txt``."""
        root = Path(self.data_root)
        images = read_pairs(root / "images.txt")
        classes = read_pairs(root / "image_class_labels.txt")
        splits = read_pairs(root / "train_test_split.txt")
        for name, known in (("class", classes), ("split", splits)):
            missing = images.keys() - known.keys()
            if missing:
                raise ValueError(
                    f"{root}: expected a {name} for each image, got none for {len(missing)}, such "
                    f"as {min(missing)}"
                )
        ids = sorted({int(classes[image]) for image in images})
        names = read_pairs(root / "classes.txt")
        self._metainfo.setdefault("classes", tuple(names.get(str(i), str(i)) for i in ids))
        label = {str(i): number for number, i in enumerate(ids)}
        return [
            dict(img_path=str(root / "images" / file), gt_label=label[classes[image]])
            for image, file in images.items()
            if splits[image] == _SPLITS[self.split]
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Label of one image, for class-balanced sampling."""
        return [self.get_data_info(idx)["gt_label"]]
