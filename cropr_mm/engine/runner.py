"""mmengine's runner as the tools use it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from cropr_mm.checkpoints import CheckpointError
from cropr_mm.engine.console import end_where_log_is_full, is_for_console
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.load_weights import load_weights
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.trainable import trains_routers
from cropr_mm.hooks.router_hook import freeze_all_but_routers

AnyRunner: TypeAlias = Runner | FlexibleRunner


class ToolRunner(Runner):
    """Runner that keeps its console short and takes fitting checkpoints only.

    Environment, config and lists of settings go to the log file alone. Checkpoints that are tested
    or resumed must have every parameter of the model and no other; those that training starts from
    must have those of the encoder.
    """

    strict = False

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; its console shows only what a user needs, and its file is whole."""
        return tool_logger(super().build_logger(*args, **kwargs))

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
        with optimizer_errors(filename):
            super().resume(filename, *args, **kwargs)

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = "cpu",
        strict: bool = False,
        revise_keys: list = [(r"^module.", "")],  # noqa: B006 - the signature of the base class
    ) -> dict:
        """Load a checkpoint; see :func:`load_weights`."""
        model = unwrapped_model(self)
        checkpoint = load_weights(
            self, model, filename, strict or self.strict, map_location, revise_keys
        )
        self._has_loaded = True
        return checkpoint


def tool_logger(logger: MMLogger) -> MMLogger:
    """Let the console of a logger show only what a user needs, and its file be whole."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            end_where_log_is_full(handler)
        else:
            handler.addFilter(is_for_console)
    return logger


@contextmanager
def optimizer_errors(filename: str) -> Iterator[None]:
    """Take a ValueError while a training goes on from a file for the state of another optimizer.

    Raises:
        SetupError: In its place.
    """
    try:
        yield
    except (SetupError, CheckpointError):
        raise
    except ValueError as error:
        raise SetupError(
            f"{filename} does not fit the optimizer of this config: {error}"
        ) from error


def unwrapped_model(runner: AnyRunner) -> nn.Module:
    """The runner's model without its wrappers of data parallelism and test-time augmentation."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
