"""Losses added to those of an unmodified model, from what hooks capture of its forward pass."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

State = TypeVar("State")


class LossListener(ABC, Generic[State]):
    """Opens a state for each pass of ``mode='loss'`` in training and adds its losses at the end.

    Everything hangs on forward hooks, so the model keeps its class and methods; copies and pickles
    of a model that is being listened to carry their own listener.

    Args:
        model: Unwrapped model whose ``forward`` takes ``inputs``, ``data_samples`` and ``mode``.

    Attributes:
        state: What belongs to the running pass; None outside of one.

    Raises:
        ValueError: If the model has another ``forward``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._arguments = _argument_defaults(model)
        self.state: State | None = None
        self._handles = [
            model.register_forward_pre_hook(self._open, with_kwargs=True),
            model.register_forward_hook(self._close, with_kwargs=True),
        ]

    @abstractmethod
    def start(self, given: dict[str, Any]) -> State:
        """State of a pass with these arguments."""

    @abstractmethod
    def losses(self, state: State) -> dict[str, Tensor]:
        """Losses by name, at the end of a pass."""

    def listen(self, module: nn.Module, hook: Any, before: bool = False) -> None:
        """Register a forward hook, or a pre-hook, that :meth:`remove` takes off again."""
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        self.hold(register(hook))

    def hold(self, handle: RemovableHandle) -> None:
        """Let :meth:`remove` also end what this handle stands for."""
        self._handles.append(handle)

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _open(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        # Also forgets what a forward pass that ended in an exception left behind.
        given = {**self._arguments, **dict(zip(self._arguments, args, strict=False)), **kwargs}
        listening = model.training and given["mode"] == "loss"
        self.state = self.start(given) if listening else None

    def _close(
        self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> dict[str, Any] | None:
        if self.state is None:
            return None
        state, self.state = self.state, None
        if not isinstance(output, Mapping):
            raise ValueError(
                f"{type(model).__name__} must return a dict of losses for mode='loss', got "
                f"{type(output).__name__}"
            )
        return {**output, **self.losses(state)}


def _argument_defaults(model: nn.Module) -> dict[str, Any]:
    """Arguments of ``model.forward`` in order, with their defaults (None where there is none)."""
    parameters = inspect.signature(model.forward).parameters
    missing = {"data_samples", "mode"} - set(parameters)
    if missing:
        raise ValueError(
            f"expected a model with forward(inputs, data_samples, mode), as mmengine's; "
            f"{type(model).__name__}.forward has no {sorted(missing)}, only {list(parameters)}"
        )
    return {
        name: None if p.default is inspect.Parameter.empty else p.default
        for name, p in parameters.items()
    }
