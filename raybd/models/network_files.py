"""Files of trained networks: state dictionaries, TorchScript, programs of torch.export (.pt2), ONNX.

A state dictionary is read without unpickling anything but tensors, a .pt2 file after `check_program`. TorchScript is a
program, and so is ONNX: who wrote them decides what they compute.
"""

import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.base import Shape
from raybd.models.program_check import check_program
from raybd.utils.files import expanded, write_atomically
from raybd.utils.process import log_levels

if TYPE_CHECKING:  # torch.export takes seconds to import, and every worker of a sweep imports raybd.models
    from torch.export import ExportedProgram

Kind = Literal["state_dict", "torchscript", "program", "onnx"]
FORMATS = (".pt", ".pt2", ".onnx")
NESTED = ("state_dict", "model_state_dict", "model", "net")  # keys of checkpoints that hold a state dictionary
IMAGES, LOGITS = ["images"], ["logits"]  # input and output of a network written as ONNX
NO_ONNX = "ONNX needs the packages of raybd's extra: pip install 'raybd[onnx]'"


def kind_of_file(path: str | Path) -> Kind:
    """What the file at `path` is, by what it holds.

    Raises:
        InputError: there is no such file.
    """
    file = expanded(path)
    if not file.is_file():
        raise InputError(f"there is no file at {path}")
    if file.suffix == ".onnx":
        return "onnx"
    if not zipfile.is_zipfile(file):
        return "state_dict"  # of before PyTorch 1.6
    with zipfile.ZipFile(file) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()] + archive.namelist()
    if any(name.startswith("code/") for name in names):
        return "torchscript"
    return "program" if "archive_format" in names or "serialized_exported_program.json" in names else "state_dict"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights by name in a file of any kind but ONNX, on the CPU.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    kind, file = kind_of_file(path), expanded(path)
    if kind == "onnx":
        raise InputError(f"{path} is ONNX, which keeps no state dictionary")
    if kind == "program":
        return dict(read_program(file).state_dict)
    return dict(_script(file).state_dict()) if kind == "torchscript" else _tensors(path)


def _tensors(path: str | Path) -> dict[str, Tensor]:
    try:
        found = torch.load(expanded(path), map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as weights: {str(error).splitlines()[0][:200]} (a network that is pickled whole "
            "would run code when it is read: save its state_dict(), or torch.export.save it as .pt2)"
        ) from error
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"{path} holds no state dictionary: it must be tensors by name")
    parallel = all(name.startswith("module.") for name in found)  # of DataParallel
    return {name.removeprefix("module.") if parallel else name: value for name, value in found.items()}


def read_program(path: Path) -> "ExportedProgram":
    """The program in a .pt2 file.

    Raises:
        InputError: it holds more than a network, or cannot be read.
    """
    import torch.export

    check_program(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read by this PyTorch ({torch.__version__}): {error}") from error


def _script(path: Path) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit")  # is deprecated, and is read all the same
            script: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")
            return script
    except Exception as error:
        raise InputError(f"{path} cannot be read as TorchScript: {str(error).splitlines()[0][:200]}") from error


class ExportedNetwork(nn.Module):
    """A program of torch.export as a network: it computes as it was exported, in evaluation, whatever its mode."""

    def __init__(self, program: "ExportedProgram") -> None:
        super().__init__()
        self.graph = program.module()
        self.train(False)

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """The network as it is: a program has no modes, and its own `train` would raise."""
        for part in self.modules():
            part.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the images `x` (N, C, H, W)."""
        logits: Tensor = self.graph(x)
        return logits


class OnnxNetwork(nn.Module):
    """An ONNX file as a network on the CPU, run by ONNX Runtime: no gradients, no weights."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(NO_ONNX) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0][:200]}") from error

    def forward(self, x: Tensor) -> Tensor:
        """The first output for the images `x` (N, C, H, W)."""
        given = self.session.get_inputs()[0]
        fixed = given.shape[0] if isinstance(given.shape[0], int) else len(x)  # images that it takes at once
        parts = [self._logits(given.name, part, fixed) for part in x.detach().cpu().float().split(fixed)]
        return torch.cat(parts).to(x.device)

    def _logits(self, name: str, x: Tensor, count: int) -> Tensor:
        """The logits of at most `count` images, for which black ones make up the number."""
        filled = torch.cat([x, x.new_zeros(count - len(x), *x.shape[1:])])
        return torch.from_numpy(self.session.run(None, {name: filled.numpy()})[0])[: len(x)]


def read_network(path: str | Path) -> nn.Module:
    """The network in a file of TorchScript, of torch.export or of ONNX, in evaluation mode on the CPU.

    Raises:
        InputError: it cannot be read, or holds weights without a network.
    """
    kind, file = kind_of_file(path), expanded(path)
    if kind == "state_dict":
        raise InputError(f"{path} holds weights without a network: say of which with --network")
    if kind == "program":
        return ExportedNetwork(read_program(file))
    return OnnxNetwork(file).eval() if kind == "onnx" else _script(file).eval()


def export_network(network: nn.Module, shape: Shape) -> "ExportedProgram":
    """`network`, in evaluation mode, as a program for any number of images of `shape`.

    Raises:
        InputError: PyTorch cannot export it.
    """
    import torch.export

    batch = {0: torch.export.Dim("batch")}
    try:
        with quiet_export():
            return torch.export.export(network.eval(), (torch.zeros(2, *shape),), dynamic_shapes=(batch,))
    except Exception as error:
        raise InputError(f"the network cannot be exported: {str(error).splitlines()[0][:200]}") from error


@contextmanager
def quiet_export() -> Iterator[None]:
    """Inside, PyTorch exports and saves programs without two warnings that mean nothing here: that Triton is missing,
    and that weights laid channels last are no complete tensors, which they are."""
    with log_levels({"torch.utils.flop_counter": logging.ERROR}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")
        yield


def check_format(out: str | Path) -> Path:
    """The file `out` that a network shall be written to.

    Raises:
        InputError: its suffix names no format, its folder is not there, or ONNX is asked for without its packages.
    """
    path = expanded(out)
    if path.suffix not in FORMATS:
        raise InputError(f"--out {out}: the file must end in one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {path.parent}")
    if path.suffix == ".onnx":
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise InputError(NO_ONNX) from error
    return path


def write_program(program: "ExportedProgram", out: Path) -> None:
    """Write the weights of `program` (.pt), the program (.pt2) or the same as ONNX (.onnx) to `out`, by its suffix.

    Raises:
        InputError: ONNX has not the operations.
        OSError, RuntimeError: the file cannot be written.
    """
    import torch.export

    if out.suffix == ".pt":
        write_atomically(out, lambda part: torch.save(dict(program.state_dict), part))
    elif out.suffix == ".pt2":
        with quiet_export():
            _write_beside(out, lambda part: torch.export.save(program, part))
    else:
        _write_beside(out, lambda part: _write_onnx(program, part))


def _write_beside(out: Path, write: Any) -> None:
    """As `write_atomically`, for writers that want the suffix in the name."""
    write_atomically(out, lambda part: (write(named := part.with_name(f"{part.name}{out.suffix}")), named.rename(part)))


def _write_onnx(program: "ExportedProgram", out: Path) -> None:
    try:
        torch.onnx.export(program, f=out, input_names=IMAGES, output_names=LOGITS, external_data=False, verbose=False)
    except Exception as error:
        raise InputError(f"the network cannot be written as ONNX: {str(error).splitlines()[0][:200]}") from error
