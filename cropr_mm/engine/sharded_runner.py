"""mmengine's FlexibleRunner as the tools use it: trainings whose model is sharded by FSDP."""

from functools import partial
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import FlexibleRunner
from torch import nn

from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.load_weights import load_weights
from cropr_mm.engine.runner import optimizer_errors, tool_logger
from cropr_mm.engine.sharded_strategy import ShardedStrategy
from cropr_mm.engine.trainable import trains_routers
from cropr_mm.hooks.router_hook import freeze_all_but_routers


class ShardedRunner(FlexibleRunner):
    """FlexibleRunner that keeps its console short and takes fitting checkpoints only.

    The model is whole until :meth:`train` has loaded its weights and built its optimizer.
    """

    strict = False
    model: nn.Module
    optim_wrapper: Any
    _has_loaded: bool

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self.model = self.strategy.build_model(self.model).to(get_device())
        if trains_routers(self.cfg):
            freeze_all_but_routers(self.model)

    def build_strategy(self, strategy: Any = None, **options: Any) -> ShardedStrategy:
        """Build the strategy; its console shows only what a user needs."""
        with DefaultScope.overwrite_default_scope("mmengine"):  # hosts know no strategies
            built = super().build_strategy({**strategy, "type": ShardedStrategy}, **options)
        tool_logger(built.logger)
        return built

    def train(self) -> nn.Module:
        """Load weights, build the optimizer, shard the model, and train."""
        self.strategy._init_model_weights(self.model)
        self.strategy.dispatch_kwargs["init_weights_for_test_or_val"] = False  # they are there
        if self._load_from is not None:
            load_weights(self, self.model, self._load_from, self.strict)
        with building_errors():
            self.optim_wrapper = build_optim_wrapper(self.model, self.optim_wrapper)
        return super().train()

    def load_or_resume(self) -> None:
        """Go on with optimizer, schedules and steps; weights are loaded before."""
        if self._resume and not self._has_loaded:
            with optimizer_errors(self._load_from):
                self.resume(self._load_from, map_location="cpu")
            self._has_loaded = True
        # Clipping learns here which parameters are auxiliary.
        self.optim_wrapper.initialize_count_status(self.model, self.iter, self.max_iters)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Write a checkpoint whole or not at all; all processes gather it, the first writes.

        FlexibleRunner counts one iteration too many after a validation.
        """
        steps = dict(epoch=self.epoch + by_epoch, iter=self.iter + (not by_epoch))
        about = {
            **steps,
            **(meta or {}),
            "cfg": self.cfg.pretty_text,
            "experiment_name": self.experiment_name,
            "dataset_meta": getattr(self.train_dataloader.dataset, "metainfo", None),
        }
        save = partial(
            self.strategy.save_checkpoint,
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            extra_ckpt={"meta": about, "message_hub": self.message_hub.state_dict()},
            callback=lambda checkpoint: self.call_hook(
                "before_save_checkpoint", checkpoint=checkpoint
            ),
        )
        if not is_main_process() or "://" in out_dir:
            save(f"{out_dir}/{filename}")
            return
        with replacing(Path(out_dir, filename)) as temporary:
            save(str(temporary))
