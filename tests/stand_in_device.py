"""A CUDA device that is none: real numbers on the CPU, the rules of "cuda:0".

A `DeviceTensor` wraps the tensor that holds its numbers. To PyTorch's dispatcher it is a CUDA tensor, so autograd and
autocast (with CUDA's own table of operations) treat it as one; each operation arrives in `DeviceTensor`'s
`__torch_dispatch__`, which checks what CUDA checks, counts what the host would wait for, and computes on the CPU.
What never reaches the dispatcher (`.device`, `.numpy()`, `device=...` of a factory, generators) is seen by
`StandInDevice`, a TorchFunctionMode.

`stand_in_device()` switches it on, and gives the counter of waits.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
RAYBD = str(Path(__file__).parent.parent / "raybd")
real_generator = torch.Generator
aten = torch.ops.aten

# Operations that take no tensor of the CPU beside one of the device, not even one number.
STRICT = {
    "cat", "stack", "mm", "bmm", "addmm", "baddbmm", "mv", "dot", "convolution", "index_select", "gather", "scatter",
    "scatter_add", "native_batch_norm", "embedding", "nll_loss_forward", "_fused_sgd_", "_fused_adamw_",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "equal", "repeat_interleave", "is_nonzero", "histc",
}  # fmt: skip


# Autocast's tables for CUDA (docs.pytorch.org/docs/stable/amp.html), as far as raybd and torchvision call them;
# functions of torch.nn.functional that are written in Python stand by what they call.
LOWER = {
    "__matmul__", "__rmatmul__", "addbmm", "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose2d",
    "einsum", "linear", "matmul", "mm", "mv", "prelu",
}  # fmt: skip
FLOAT32 = {
    "__pow__", "__rpow__", "cdist", "cosine_similarity", "cross_entropy", "cumprod", "cumsum", "dist", "exp", "expm1",
    "group_norm", "kl_div", "l1_loss", "layer_norm", "log", "log10", "log1p", "log2", "log_softmax", "logsumexp",
    "mse_loss", "nll_loss", "norm", "normalize", "pow", "prod", "reciprocal", "rsqrt", "smooth_l1_loss", "softmax",
    "softplus", "sum", "binary_cross_entropy_with_logits",
}  # fmt: skip
WIDEST = {"addcdiv", "addcmul", "atan2", "cat", "dot", "grid_sample", "index_put", "scatter_add", "stack", "tensordot"}

# What CUDA has no repeatable algorithm for: docs.pytorch.org, torch.use_deterministic_algorithms.
UNREPEATABLE = {
    "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "grid_sampler_2d_backward", "histc", "kthvalue",
    "max_unpool2d", "nll_loss2d_forward", "put", "put_", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "replication_pad2d_backward", "upsample_bicubic2d_backward", "upsample_bilinear2d_backward",
}  # fmt: skip


class Waits(Counter[tuple[str, str]]):
    """How often the host waited for the device, by the line of raybd and the operation."""

    def note(self, operation: str) -> None:
        """Count a wait for `operation` at the line of raybd that runs."""
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(RAYBD):
            frame = frame.f_back  # type: ignore[assignment]
        where = "?" if frame is None else f"{frame.f_code.co_filename.removeprefix(RAYBD)[1:]}:{frame.f_lineno}"
        self[where, operation] += 1


waits = Waits()


class DeviceTensor(torch.Tensor):
    """A tensor on the device; `host` holds its numbers."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, host: Tensor) -> "DeviceTensor":
        # To autograd's engine it lies on the CPU, or it would look for streams; to the dispatcher on the device.
        made = torch.Tensor._make_subclass(cls, host.detach(), device_for_backend_keys=CUDA)
        made.host = host
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.detach().__reduce_ex__(protocol)  # raybd loads everything onto the CPU

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = DeviceTensor(self.host.detach().clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        leaves = tree_leaves((args, kwargs))
        _check_devices(name, args, leaves)
        _check_repeatable(func, name, args)
        _count(name, args)
        kwargs.pop("device", None)  # the dispatcher's own filling: `move` alone leaves the device
        out = func(*tree_map_only(cls, _host, args), **tree_map_only(cls, _host, kwargs))
        if (name.endswith("_") and not name.endswith("__")) or "out" in kwargs:
            return _in_place(func, args, kwargs, out)
        return tree_map_only(Tensor, cls, out)


def _host(tensor: DeviceTensor) -> Tensor:
    return tensor.host


def _in_place(func: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """What an operation returns that writes into its arguments."""
    target = kwargs.get("out", args[0])
    if isinstance(out, Tensor) and isinstance(target, DeviceTensor) and out.shape != target.shape:
        raise NotImplementedError(f"the stand-in cannot change the shape of a tensor in place: {func}")
    return target if isinstance(out, Tensor) else out


def on_device(x: object) -> bool:
    """Whether `x` is a tensor on the device."""
    return isinstance(x, DeviceTensor)


def _check_devices(name: str, args: Any, leaves: list[Any]) -> None:
    """Refuse what CUDA refuses: operands on both devices, but for single numbers and indices of the CPU."""
    if name in ("copy_", "_to_copy"):
        return
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    if name in INDEXING:
        indices = [x for x in args[1] if x is not None]
        if not on_device(args[0]) and any(map(on_device, indices)):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        tensors = [args[0], *[x for x in args[2:3] if isinstance(x, Tensor)]]
    if torch._C._current_graph_task_id() != -1:  # formulas of backward passes make zeros where the engine thinks it is
        return
    for x in tensors:
        if not on_device(x) and (x.dim() or name in STRICT or (x is args[0] and name.endswith("_"))):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({name})")


def _check_repeatable(func: Any, name: str, args: Any) -> None:
    """Refuse, where only repeatable algorithms are wanted, what has none."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    floats = name == "cumsum" and args[0].is_floating_point()
    indexed = name == "median" and func is not aten.median.default
    if name in UNREPEATABLE or floats or indexed:
        raise RuntimeError(f"{name} does not have a deterministic implementation")


def _count(name: str, args: Any) -> None:
    if name in WAITING:
        waits.note(name)
    if name in INDEXING:
        indices = [x for x in args[1] if x is not None]
        numbers = args[2].numel() if len(args) > 2 else 0
        masked = any(x.dtype in (torch.bool, torch.uint8) for x in indices)
        if masked and not (numbers == 1 and len(indices) == 1):  # filled, without looking for places
            waits.note("mask as index")
        elif any(not on_device(x) for x in indices):
            waits.note("index of the CPU")
    if name == "copy_" and on_device(args[0]) != on_device(args[1]):
        waits.note("copy_")


class DeviceGenerator(real_generator):
    """A generator of either device."""

    def __new__(cls, device: Any = "cpu") -> "DeviceGenerator":
        made = super().__new__(cls, "cpu")
        made.place = _device(device)  # type: ignore[attr-defined]
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place  # type: ignore[attr-defined,no-any-return]


def _device(given: Any) -> torch.device:
    """What PyTorch makes of a device that somebody names."""
    device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
    return CUDA if device.type == "cuda" else device


class _ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return DeviceTensor(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.host.clone() if on_device(grad) else grad  # type: ignore[attr-defined]


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: DeviceTensor) -> Tensor:  # type: ignore[override]
        return x.host.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return DeviceTensor(grad.clone())


def move(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; a copy where it is not there yet, for which the host waits."""
    if on_device(x) == (device == CUDA):
        return x
    waits.note(f"to {device}")
    moved: Tensor = (_ToDevice if device == CUDA else _ToHost).apply(x)  # type: ignore[no-untyped-call]
    return moved


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    device, rest = kwargs.pop("device", None), []
    kwargs.pop("non_blocking", None)
    for arg in args:
        if isinstance(arg, Tensor):
            device = CUDA if on_device(arg) else CPU
            rest.append(arg.dtype)
        elif isinstance(arg, str | torch.device | int) and not isinstance(arg, bool):
            device = arg
        elif arg is not None:
            rest.append(arg)
    rest, plain = rest[:1] if rest and isinstance(rest[0], torch.dtype) else [], kwargs
    x = torch.Tensor.to(x, *rest, **plain) if rest or any(v is not None for v in plain.values()) else x
    return x if device is None else move(x, _device(device))


def _check_generators(device: Any, args: Any, kwargs: Any) -> None:
    """Refuse a generator of another device than that of the result."""
    leaves = tree_leaves((args, kwargs))
    for generator in (x for x in leaves if isinstance(x, real_generator)):
        wanted = _device(device) if device is not None else CUDA if any(map(on_device, leaves)) else CPU
        if (found := getattr(generator, "place", CPU)) != wanted:
            raise RuntimeError(f"Expected a '{wanted.type}' device type for generator but found '{found.type}'")


def _autocast(name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of `name` as autocast casts them.

    Raises:
        RuntimeError: autocast refuses it.
    """
    low, wide = torch.get_autocast_dtype("cuda"), torch.float32
    if name == "binary_cross_entropy":
        raise RuntimeError("torch.nn.functional.binary_cross_entropy is unsafe to autocast")
    dtypes = {x.dtype for x in tree_leaves((args, kwargs)) if on_device(x)}
    widest = wide if wide in dtypes else low
    wanted = low if name in LOWER else wide if name in FLOAT32 else widest if name in WIDEST else None
    if wanted is None:
        return args, kwargs

    def cast(x: DeviceTensor) -> Tensor:
        return x.to(wanted) if x.is_floating_point() and x.dtype != torch.float64 else x

    return tree_map_only(DeviceTensor, cast, (args, kwargs))  # type: ignore[no-any-return]


def _numpy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")


def _tolist(x: Any) -> Any:
    waits.note("tolist")
    return x.host.tolist()


def _pin_memory(x: Tensor, *args: Any) -> Tensor:
    if on_device(x):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return x.clone()


def _whole(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes tensors of its own within, where the dispatcher would take them for the CPU's."""
    return lambda *args, **kwargs: DeviceTensor(func(*tree_map_only(DeviceTensor, _host, args), **kwargs))


def _set_data(x: DeviceTensor, data: DeviceTensor) -> None:
    torch.Tensor.data.__set__(x, data)  # type: ignore[attr-defined]
    x.host = data.host


OF_DEVICE: dict[Any, Callable[..., Any]] = {  # of a tensor on the device
    torch.Tensor.device.__get__: lambda x: CUDA,  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda x: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda x: False,  # type: ignore[attr-defined]
    torch.Tensor.get_device: lambda x: 0,
    torch.Tensor.numpy: _numpy,
    torch.Tensor.__array__: _numpy,
    torch.Tensor.tolist: _tolist,
    torch.Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    torch.Tensor.__format__: lambda x, spec: format(x if x.dim() else x.item(), spec),
    **{f: _whole(f) for f in (F.one_hot, torch.Tensor.quantile, torch.quantile, torch.Tensor.nanquantile)},
    torch.Tensor.__repr__: lambda x, **kwargs: f"{x.host!r} on cuda:0",
}
OF_ALL: dict[Any, Callable[..., Any]] = {
    torch.Tensor.to: _to,
    torch.Tensor.cpu: lambda x, *args, **kwargs: move(x, CPU),
    torch.Tensor.cuda: lambda x, *args, **kwargs: move(x, CUDA),
    torch.Tensor.pin_memory: _pin_memory,
    torch._has_compatible_shallow_copy_type: lambda a, b: on_device(a) == on_device(b),
}


class StandInDevice(TorchFunctionMode):
    """What is decided before an operation is dispatched: where a tensor lies, where a new one is made."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and on_device(args[0]) and (own := OF_DEVICE.get(func)):
            return own(*args, **kwargs)
        if own := OF_ALL.get(func):
            return own(*args, **kwargs)
        wanted = kwargs.pop("device", None)
        _check_generators(wanted, args, kwargs)
        if wanted is not None:
            return self._make(func, _device(wanted), args, kwargs)
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = _autocast(getattr(func, "__name__", ""), args, kwargs)
        return func(*args, **kwargs)

    def _make(self, func: Any, wanted: torch.device, args: Any, kwargs: Any) -> Any:
        """A new tensor on the device `wanted`."""
        if wanted.type not in ("cuda", "cpu") or getattr(func, "__name__", "") == "load":
            return func(*args, **kwargs, device=wanted)
        out = func(*args, **kwargs)
        if on_device(out) == (wanted == CUDA):
            return out
        if func in (torch.tensor, torch.as_tensor):
            waits.note("tensor of the host")
        return DeviceTensor(out.detach()).requires_grad_(out.requires_grad) if wanted == CUDA else out.host


@contextmanager
def stand_in_device() -> Iterator[Waits]:
    """Inside, there is one CUDA device; the counter of what the host waits for, from 0."""
    waits.clear()
    patches: dict[str, Any] = {
        "torch.Generator": DeviceGenerator,
        "torch.cuda.default_generators": (DeviceGenerator("cuda"),),
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_initialized": lambda: True,
        "torch.cuda.is_bf16_supported": lambda *args: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.get_device_name": lambda *args: "stand-in",
        "torch.cuda.manual_seed_all": lambda seed: None,
        "torch.cuda.empty_cache": lambda: None,
        "torch.cuda.synchronize": lambda *args: waits.note("synchronize"),
        "torch.cuda.mem_get_info": lambda *args: (2**33, 2**33),
        "torch.cuda.get_rng_state": lambda *args: torch.get_rng_state(),
        "torch.cuda.set_rng_state": lambda *args: None,
        "torch.cuda._lazy_init": lambda: None,
        "torch.optim.Optimizer._accelerator_graph_capture_health_check": lambda optimizer: None,
    }
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(StandInDevice())
        yield waits
