"""Memory of a network's activations, counted in a forward pass of two images."""

import logging
import math
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

IMAGES = 2  # of the pass that is counted
SMALL = 64 * 2**20, 3 * 64**2  # bytes of weights and values of an image, at most, of what is computed in no time
Shape = tuple[int, int, int]  # (C, H, W)

log = logging.getLogger(__name__)
_counted: WeakKeyDictionary[nn.Module, dict[tuple[Shape, bool, torch.dtype], int]] = WeakKeyDictionary()
_counting: ContextVar[bool] = ContextVar("counting", default=False)


def is_counting() -> bool:
    """Whether the pass under way only counts memory, for hooks that look at passes."""
    return _counting.get()


def activation_bytes(
    model: nn.Module, shape: Shape, gradients: bool = False, dtype: torch.dtype = torch.float32
) -> int:
    """Bytes that a forward pass of `model` needs for each image of `shape` and `dtype`: the most that live at once.

    With `gradients` all that it computes lives until the pass back, which needs twice the largest beside it. Counted
    once for each network and shape. A view counts like a copy, so that the number is rather too large. Where the pass
    fails it is 1: whoever asked will meet the failure in a pass of his own.
    """
    known, key = _counted.setdefault(model, {}), (shape, gradients, dtype)
    if key not in known:
        known[key] = _count(model, shape, gradients, dtype)
    return known[key]


def peak_bytes(forward: Callable[[Tensor], Any], x: Tensor, gradients: bool = False) -> int:
    """The most bytes of tensors that live at once during `forward(x)`, `x` among them."""
    with torch.no_grad(), _Counter(x) as counter:
        forward(x)
    found: int = counter.total + 2 * counter.largest if gradients else counter.peak
    return found


def _count(model: nn.Module, shape: Shape, gradients: bool, dtype: torch.dtype) -> int:
    model = _computed(model, shape)
    device = next((value.device for value in _values(model)), torch.device("cpu"))
    token = _counting.set(True)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.eval()  # in training mode the pass would move batch norm's statistics
            found = peak_bytes(model, torch.zeros(IMAGES, *shape, device=device, dtype=dtype), gradients)
    except Exception as error:  # noqa: BLE001 - a network of others raises what it likes
        log.info("the memory of the network's activations cannot be counted: %s", error)
        return 1
    finally:
        _counting.reset(token)
        for module, training in modes:
            module.training = training
    return max(1, found // IMAGES)


def _computed(model: nn.Module, shape: Shape) -> nn.Module:
    """`model`; of a small one on "meta", where PyTorch first imports its compiler, a copy of zeros on the CPU."""
    values = list(_values(model))
    size = sum(value.numel() * value.element_size() for value in values)
    if not any(value.is_meta for value in values) or size > SMALL[0] or math.prod(shape) > SMALL[1]:
        return model
    copy = deepcopy(model).to_empty(device="cpu")
    with torch.no_grad():
        for value in _values(copy):
            value.zero_()
    return copy


def _values(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


class _Counter(TorchFunctionMode):
    """Adds up the tensors that functions of PyTorch return, until they are freed."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.live = self.peak = self.total = self.largest = 0
        self._known: set[int] = set()
        self._add(x)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and count what is new of what it returns."""
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor) and id(value) not in self._known:
                self._add(value)
        return found

    def _add(self, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        self._known.add(id(value))
        weakref.finalize(value, self._drop, id(value), size)
        self.live, self.total = self.live + size, self.total + size
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
