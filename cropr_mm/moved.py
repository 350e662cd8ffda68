"""Import paths of release 0.1: they work in 0.2, with a warning that names the new one."""

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Old module -> new one.
MOVED = {
    "analysis": "profiling",
    "analysis.audit": "inspection.audit.lost_objects",
    "analysis.audit_report": "inspection.audit.audit_report",
    "analysis.centres": "inspection.cluster_centers",
    "analysis.complexity": "profiling",
    "analysis.entries": "profiling.candidates",
    "analysis.floor": "profiling.floor",
    "analysis.fusions": "profiling.fusion_table",
    "analysis.ground_truth": "inspection.audit.ground_truth",
    "analysis.latency": "profiling.latency",
    "analysis.limits": "profiling.out_of_memory",
    "analysis.machine": "profiling.environment",
    "analysis.methods": "profiling.method_table",
    "analysis.mode": "profiling.run_mode",
    "analysis.operators": "profiling.op_profile",
    "analysis.packing": "profiling.packed_weights",
    "analysis.parts": "profiling.model_parts",
    "analysis.products": "profiling.matmuls",
    "analysis.proxy": "inspection.similarity_vs_accuracy",
    "analysis.recorder": "inspection.recorder",
    "analysis.report": "profiling.complexity",
    "analysis.side_by_side": "profiling.compare",
    "analysis.speed_plot": "profiling.speed_plots",
    "analysis.token_maps": "inspection.maps",
    "analysis.token_plot": "inspection.token_plots",
    "analysis.token_record": "inspection.token_record",
    "analysis.token_similarity": "inspection.similarity",
    "analysis.token_summary": "inspection.summary",
    "analysis.yardsticks": "profiling.baselines",
    "backbones.lookup": "backbones.find",
    "console": "engine.console",
    "convert": "engine.convert",
    "deploy": "export.deploy",
    "hooks.aux_loss": "hooks.aux_loss_hook",
    "hooks.benchmark": "hooks.benchmark_hook",
    "hooks.class_visualization": "hooks.class_visualization_hook",
    "hooks.curriculum": "hooks.curriculum_hook",
    "hooks.listener": "hooks.loss_listener",
    "hooks.predictions": "hooks.draw_predictions",
    "hooks.progress": "hooks.progress_hook",
    "hooks.prune_audit": "hooks.prune_audit_hook",
    "hooks.pruning_map": "hooks.pruning_map_hook",
    "hooks.token_record": "hooks.token_record_hook",
    "metrics": "inspection.metrics",
    "ops.gather": "tokens.gather",
    "ops.merge": "tokens.merge",
    "ops.policy": "tokens.policy",
    "ops.restore": "tokens.restore",
    "ops.settle": "ops.eager_backward",
    "options": "engine.options",
    "preflight": "engine.preflight",
}
# Old module -> its names, each with the module that it is in now.
SPLIT = {
    "analysis.benchmark": {
        "Benchmark": "profiling.benchmark_record",
        "benchmark_model": "profiling.dense_vs_pruned",
        "format_benchmark": "profiling.benchmark_record",
    },
    "runner": {
        "ToolRunner": "engine.runner",
        "evaluate": "engine.evaluate",
        "load_config": "engine.config",
        "short_errors": "engine.console",
        "train": "engine.train",
    },
}
# Old module -> where its code is now: in the repository, not in the package.
REMOVED = {
    "analysis.bootstrap": "benchmarks/experiments",
    "analysis.memory": "benchmarks/experiments",
    "analysis.model_memory": "benchmarks/experiments",
    "analysis.studies": "benchmarks/experiments",
    "analysis.without_products": "benchmarks/experiments",
    "comparison": "benchmarks/experiments",
}
_PREFIX = "cropr_mm."


class _Alias(Loader):
    """Gives the new module for the import of an old one."""

    def __init__(self, new: str) -> None:
        self.new = new
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the new module and warn."""
        _warn(spec.name, self.new)
        module = importlib.import_module(self.new)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back; it was executed under its own name."""
        module.__spec__ = self.spec


class _Collection(Loader):
    """Gives the names of an old module that are in several modules now."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def create_module(self, spec: ModuleSpec) -> None:
        """Warn; Python makes the module."""
        _warn(spec.name, " and ".join(_PREFIX + m for m in sorted(set(self.names.values()))))

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        for name, home in self.names.items():
            setattr(module, name, getattr(importlib.import_module(_PREFIX + home), name))


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is {new} now; the old name goes in cropr_mm 0.3", DeprecationWarning, stacklevel=3
    )


class _MovedFinder(MetaPathFinder):
    """Finds old modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of a module that has moved, None for all others.

        Raises:
            ModuleNotFoundError: If it has left the package.
        """
        name = fullname.removeprefix(_PREFIX)
        if name == fullname:
            return None
        if name in MOVED:
            return ModuleSpec(fullname, _Alias(_PREFIX + MOVED[name]), is_package=True)
        if name in SPLIT:
            return ModuleSpec(fullname, _Collection(SPLIT[name]))
        for old, place in REMOVED.items():
            if name == old or name.startswith(f"{old}."):
                raise ModuleNotFoundError(
                    f"{fullname} has left the package: see {place} in the repository", name=fullname
                )
        return None


def install() -> None:
    """Let Python find the old modules."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedFinder())  # before the folder of a new package
