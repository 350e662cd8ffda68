"""Memory that an encoder needs in test and training, counted without weights or data.

Tensors are fake: they have shapes and storages, but no numbers, so any image size works anywhere.
Attention runs as the kernel that torch chooses for the device. What operators allocate inside
themselves, such as workspaces, is not seen, nor is what an allocator rounds up or leaves unused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.find import auxiliary_reducers
from cropr_mm.ops.eager_backward import eager_backward
from cropr_mm.profiling.environment import peak_memory
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.reducers import TokenReducer


@dataclass(frozen=True)
class EncoderMemory:
    """Bytes that one encoder needs for one batch.

    Attributes:
        weights: Parameters and buffers as trained, auxiliary parts included.
        weights_deployed: The same after ``switch_to_deploy``.
        test: Most that a forward pass in test adds to the deployed weights and images.
        saved: Kept for backward at the end of a forward pass in training, without weights and
            images; with activation checkpointing what is computed again is not among it.
        training: Most that forward and backward add to weights and images, gradients of all
            parameters included; an optimizer's states come on top.
    """

    weights: int
    weights_deployed: int
    test: int
    saved: int
    training: int


def encoder_memory(backbone: Mapping[str, Any], batch_size: int, mode: Mode) -> EncoderMemory:
    """Estimate an encoder at its own image size.

    Args:
        backbone: Arguments of :class:`CroprViT`, as trained (without ``deploy``).
        batch_size: Images.
        mode: Precision, kernel of attention, and the device whose rules of autocast and choice of
            kernels count; nothing is computed there.

    Raises:
        ValueError: If the arguments do not fit together.
    """
    trained, deployed = _forms(backbone, mode, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        for encoder in (trained, deployed):
            encoder.to_empty(device=mode.device)
        return _memory(trained, deployed, batch_size, mode, peak_bytes)


def measured_memory(backbone: Mapping[str, Any], batch_size: int, mode: Mode) -> EncoderMemory:
    """The same from CUDA's allocator; arguments as those of :func:`encoder_memory`.

    Raises:
        ValueError: If the mode's device is no GPU, or the arguments do not fit together.
    """
    if torch.device(mode.device).type != "cuda":
        raise ValueError(f"memory is measured on CUDA devices only, got {mode.device}")

    trained, deployed = _forms(backbone, mode, mode.device)
    peak = partial(cuda_peak_bytes, device=mode.device)
    return _memory(trained, deployed, batch_size, mode, peak)


def cuda_peak_bytes(function: Callable[[], object], device: str) -> int:
    """Most bytes that tensors occupy on a GPU while a function runs, above those before."""
    before = torch.cuda.memory_allocated(device)
    return (peak_memory(function, device) or 0) - before


def saved_bytes(function: Callable[[], object], without: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for backward while a function runs; each storage counts once.

    Args:
        function: Call without arguments, usually a forward pass.
        without: Tensors that exist anyway, such as parameters and images: their storages do not
            count. Copies of them in another precision, as autocast makes, do.
    """
    known = {tensor.untyped_storage()._cdata for tensor in without}
    storages: dict[int, Any] = {}  # they are held, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            storages[storage._cdata] = storage
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with saved_tensors_hooks(pack, _same):
        result = function()
    del result
    return sum(storage.nbytes() for storage in storages.values())


def peak_bytes(function: Callable[[], object]) -> int:
    """Most bytes that tensors made by a function occupy at one time, while it runs.

    Args:
        function: Call without arguments; tensors that existed before do not count.
    """
    with _Storages() as storages:
        function()
    return storages.peak


class _Storages(TorchDispatchMode):
    """Follows the storages that operators make until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._foreign: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address taken

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            if storage._cdata not in self._alive:
                self._foreign.setdefault(storage._cdata, StorageWeakRef(storage))
        out = func(*args, **(kwargs or {}))
        made = [
            storage
            for storage in _storages(out)
            if storage._cdata not in self._alive and storage._cdata not in self._foreign
        ]
        if made:
            self._alive = {k: v for k, v in self._alive.items() if not v[0].expired()}
            self._alive |= {s._cdata: (StorageWeakRef(s), s.nbytes()) for s in made}
            self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out


def _forms(backbone: Mapping[str, Any], mode: Mode, device: str) -> tuple[CroprViT, CroprViT]:
    """An encoder as trained, and another one stripped for inference."""
    with torch.device(device):
        trained, deployed = (CroprViT(**backbone).to(mode.torch_dtype) for _ in range(2))
    deployed.switch_to_deploy()
    return trained.train(), deployed.eval()


def _memory(
    trained: CroprViT,
    deployed: nn.Module,
    batch_size: int,
    mode: Mode,
    peak: Callable[[Callable[[], object]], int],
) -> EncoderMemory:
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")
    shape = (batch_size, 3, *trained.img_size)
    images = torch.zeros(shape, dtype=mode.torch_dtype, device=mode.device)
    with mode.running():
        test = peak(partial(deployed, images))
    forward = partial(_outputs, trained, images, mode)
    return EncoderMemory(
        weights=tensor_bytes(_state(trained)),
        weights_deployed=tensor_bytes(_state(deployed)),
        test=test,
        saved=saved_bytes(forward, without=(*_state(trained), images)),
        training=peak(partial(_step, forward)),
    )


def _outputs(encoder: CroprViT, images: Tensor, mode: Mode) -> list[Tensor]:
    """Everything that a training loss starts from, auxiliary losses included."""
    with _listening(encoder) as losses, mode.running(gradient=True):
        return [*encoder(images), *losses]


@contextmanager
def _listening(encoder: CroprViT) -> Iterator[list[Tensor]]:
    """Auxiliary losses of what runs inside, made as ``CroprAuxLossHook`` makes them."""
    losses: list[Tensor] = []

    def listen(reducer: TokenReducer, output: Tensor | tuple) -> None:
        logits = output[0] if isinstance(output, tuple) else output
        if reducer.stop_gradient:
            losses.append(eager_backward(torch.sum, logits, list(reducer.parameters())))
        else:
            losses.append(logits.sum())

    handles = [
        reducer.listen(partial(listen, reducer)) for reducer in auxiliary_reducers(encoder).values()
    ]
    try:
        yield losses
    finally:
        for handle in handles:
            handle.remove()


def _step(forward: Callable[[], list[Tensor]]) -> None:
    outputs = forward()
    torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])


def _state(encoder: CroprViT) -> tuple[Tensor, ...]:
    return (*encoder.parameters(), *encoder.buffers())


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _storages(tree: Any) -> list[Any]:
    leaves, _ = tree_flatten(tree)
    return [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor)]


def _same(tensor: Tensor) -> Tensor:
    return tensor
