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
    "backbones.outputs": "backbones.feature_maps",
    "console": "engine.console",
    "convert": "engine.convert",
    "demo.report": "demo.demo_report",
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
    "metrics.clusters": "inspection.metrics.clusters",
    "metrics.features": "inspection.metrics.features",
    "metrics.maps": "inspection.metrics.depth_maps",
    "metrics.patterns": "inspection.metrics.kept_patterns",
    "metrics.proxy": "inspection.metrics.proxy",
    "ops.gather": "tokens.gather",
    "ops.merge": "tokens.merge",
    "ops.restore": "tokens.restore",
    "options": "engine.options",
    "preflight": "engine.preflight",
    "preflight.coco": "engine.preflight.coco",
    "preflight.data": "engine.preflight.data",
    "preflight.errors": "engine.preflight.errors",
    "preflight.heads": "engine.preflight.heads",
    "preflight.label_maps": "engine.preflight.label_maps",
    "preflight.model": "engine.preflight.model",
}
# Old module -> its names, each with where it is now: several modules, or names that have changed.
SPLIT = {
    "analysis.benchmark": {
        "Benchmark": "profiling.benchmark_record.Benchmark",
        "benchmark_model": "profiling.dense_vs_pruned.benchmark_model",
        "format_benchmark": "profiling.benchmark_record.format_benchmark",
        "only_backbone": "backbones.find.only_backbone",
    },
    "ops.policy": {
        "advance": "tokens.policy.update_live",
        "is_soft": "tokens.policy.is_soft",
        "whole_policy": "tokens.policy.whole_policy",
    },
    "ops.settle": {
        "settle": "ops.eager_backward.eager_backward",
        "used_at_once": "ops.eager_backward.used_at_once",
    },
    "runner": {
        "ToolRunner": "engine.runner.ToolRunner",
        "evaluate": "engine.evaluate.evaluate",
        "load_config": "engine.config.load_config",
        "short_errors": "engine.console.short_errors",
        "train": "engine.train.train",
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
    """Gives the names of an old module that are elsewhere now, each under its old name."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def create_module(self, spec: ModuleSpec) -> None:
        """Warn; Python makes the module."""
        homes = sorted({_PREFIX + path.rpartition(".")[0] for path in self.names.values()})
        split = f"split into {', '.join(homes[:-1])} and " if homes[1:] else ""
        _warn(spec.name, split + homes[-1])

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        for name, path in self.names.items():
            home, _, new = path.rpartition(".")
            setattr(module, name, getattr(importlib.import_module(_PREFIX + home), new))


def renamed(module: str, name: str, new: Mapping[str, tuple[str, object]]) -> object:
    """For the ``__getattr__`` of a module: what a name of release 0.1 stands for now.

    Args:
        module: ``__name__`` of the module.
        name: The name that was asked for.
        new: What each old name is called now, and the object.

    Raises:
        AttributeError: If the module never had this name.
    """
    if name not in new:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    called, value = new[name]
    _warn(f"{module}.{name}", called, stacklevel=4)
    return value


def _warn(old: str, new: str, stacklevel: int = 3) -> None:
    warnings.warn(
        f"{old} is {new} now; the old name goes in cropr_mm 0.3", DeprecationWarning, stacklevel
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
