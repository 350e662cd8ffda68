"""Which ground-truth objects lost their tokens, beside what the detector made of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import collect_results
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from cropr_mm.inspection.audit.audit_report import format_audit, plot_audit, sized_precision
from cropr_mm.inspection.audit.ground_truth import check_meta_keys, objects_of, records_of, view_of
from cropr_mm.inspection.audit.lost_objects import (
    ImageAudit,
    audit_image,
    seen_by_block,
    summarize_audit,
)
from cropr_mm.inspection.recorder import StepRecorder, check_drops, pruned_backbone
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class PruneAuditHook(Hook):
    """In a test: share of ground-truth boxes and mask pixels whose tokens were pruned, by block.

    Objects come from the records of the test dataset, so its pipeline needs no annotations; it may
    resize and flip. Definitions are those of :mod:`cropr_mm.inspection.audit.lost_objects`; size
    groups are COCO's, by the area of the annotation where the dataset has a COCO file. Tables by
    size, beside the AP of the same test, go to the log; everything by size and class goes to
    ``audit.json`` and survival against block to ``audit.png`` in the working folder. Several
    processes join what they saw.
    """

    priority = "VERY_LOW"  # what the evaluator adds to the log comes first

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Any]] = {}
        self._audits: list[ImageAudit] = []
        self._steps = StepRecorder()

    def check(self, runner: Runner) -> None:
        """Find out before a test whether it can be audited.

        Raises:
            ValueError: If nothing is pruned, tokens are merged, the test dataset has no
                ground-truth boxes, or its pipeline does not hand on how an image came to lie on the
                patch grid.
        """
        check_drops(pruned_backbone(runner.model), "the audit")
        dataset = runner.test_dataloader.dataset
        if not hasattr(dataset, "get_data_info"):
            raise ValueError(
                f"the audit expects a test dataset with get_data_info, got {type(dataset).__name__}"
            )
        if not any(dataset.get_data_info(i).get("instances") for i in range(len(dataset))):
            raise ValueError(
                "the audit expects ground-truth boxes in the records of the test dataset, got none "
                f"in {len(dataset)} images of {type(dataset).__name__}"
            )
        for part in getattr(dataset, "datasets", [dataset]):
            check_meta_keys(part.pipeline.transforms, part.get_data_info(0))

    def before_test(self, runner: Runner) -> None:
        """Check that the test set can be audited."""
        self.check(runner)
        self._records = records_of(runner.test_dataloader.dataset)
        self._audits = []

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Record the tokens of the next batch."""
        self._steps.start(runner.model)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Audit the images of the batch."""
        recorder = self._steps.stop()
        assert recorder is not None
        backbone = recorder.backbone
        sites = {int(block): reducer.site for block, reducer in backbone.reducers.items()}
        seen = seen_by_block(recorder.maps(), backbone.depth, sites, backbone.num_restored)
        for image, sample in zip(seen, outputs or (), strict=True):
            objects = objects_of(self._records[sample.img_path])
            view = view_of(sample.metainfo, backbone.patch_size)
            self._audits.append(audit_image(image, objects, view))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print and write the audit."""
        dataset = runner.test_dataloader.dataset
        audits = collect_results(self._audits, len(dataset), "cpu")
        instances = [i for info in self._records.values() for i in info.get("instances") or ()]
        annotated = all("area" in instance for instance in instances)
        self._records, self._audits = {}, []
        if audits is None:  # another process speaks
            return
        record: dict[str, Any] = {
            "images": len(audits),
            "sizes_from": "area of the annotation" if annotated else "mask pixels, else the box",
            "ap": sized_precision(metrics or {}),
            "audit": summarize_audit(audits, dataset.metainfo["classes"]),
        }
        file, picture = (Path(runner.work_dir, name) for name in ("audit.json", "audit.png"))
        file.write_text(json.dumps(record, indent=2) + "\n")
        plot_audit(record, picture)
        runner.logger.info(f"{format_audit(record)}\nwritten to {file} and {picture}")
