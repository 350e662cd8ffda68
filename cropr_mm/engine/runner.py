"""mmengine's runner as the tools use it."""

import logging
from collections.abc import Callable
from typing import Any

from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner, load_state_dict
from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.checkpoints import CheckpointError
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.checkpoints.queries import collapse_queries
from cropr_mm.engine.checkpoint_io import drop_token_norm, resample_queries
from cropr_mm.engine.console import end_where_log_is_full, is_for_console
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.preflight import SetupError, check_encoder, check_model, check_plans_of
from cropr_mm.engine.resume import check_resumable
from cropr_mm.engine.trainable import check_frozen, trains_routers
from cropr_mm.hooks.router_hook import freeze_all_but_routers


class ToolRunner(Runner):
    """Runner that keeps its console short and takes fitting checkpoints only.

    Environment, config and lists of settings go to the log file alone. Checkpoints that are tested
    or resumed must have every parameter of the model and no other; those that training starts from
    must have those of the encoder.
    """

    strict = False

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; its console shows only what a user needs, and its file is whole."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                end_where_log_is_full(handler)
            else:
                handler.addFilter(is_for_console)
        return logger

    def build_model(self, model: Any) -> nn.Module:
        """Build the model; where only routers learn, all else is frozen before it is wrapped."""
        built = super().build_model(model)
        if trains_routers(self.cfg):
            freeze_all_but_routers(built)
        return built

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer; SetupError for arguments that it does not take."""
        with building_errors():
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules of rates; SetupError for arguments that they do not take."""
        with building_errors():
            return super().build_param_scheduler(scheduler)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint.

        Raises:
            SetupError: If it does not hold all that is needed, see :func:`check_resumable`, or the
                state of its optimizer is that of other parameters.
        """
        try:
            super().resume(filename, *args, **kwargs)
        except (SetupError, CheckpointError):
            raise
        except ValueError as error:
            raise SetupError(
                f"{filename} does not fit the optimizer of this config: {error}"
            ) from error

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = "cpu",
        strict: bool = False,
        revise_keys: list = [(r"^module.", "")],  # noqa: B006 - the signature of the base class
    ) -> dict:
        """Load a checkpoint completely, or for fine-tuning with other heads at most.

        Raises:
            SetupError: If its names or shapes do not fit, see :func:`check_encoder`.
            CheckpointError: If the file is damaged or holds code.
        """
        strict = strict or self.strict
        model = unwrapped_model(self)
        content = CheckpointLoader.load_checkpoint(filename, map_location)
        checkpoint = as_checkpoint(content, filename, revise_keys)
        weights = checkpoint["state_dict"]
        if strict:
            collapse_queries(weights, model)
            check_model(model, weights, filename)
            check_plans_of(model, checkpoint["meta"], filename)
            if self._resume:
                check_resumable(self, checkpoint, filename)
        else:
            for path, backbone in find_backbones(model).items():
                resample_queries(weights, backbone, path, checkpoint)
                drop_token_norm(weights, backbone, path, checkpoint)
            check_encoder(model, weights, filename, checkpoint)
            if trains_routers(self.cfg):
                check_frozen(model, weights, filename)
        # Hooks may put other weights of these names there, such as averaged ones.
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_state_dict(model, weights, strict, logger="silent")  # differences are checked above
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint


def unwrapped_model(runner: Runner) -> nn.Module:
    """The runner's model without its wrappers of data parallelism and test-time augmentation."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
