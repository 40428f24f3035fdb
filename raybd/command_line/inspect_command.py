"""`raybd inspect`: a network that is already trained, beside clean ones."""

import os
import sys
from typing import Annotated

import tyro

from raybd.command_line.tables import TableFormat, format_json

File = Annotated[str, tyro.conf.Positional]


def inspect_network(
    model: File,
    data: str = "digits",
    network: str = "",
    width: float = 1.0,
    depth: int | None = None,
    noise: float = 0.0,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    attack: str | None = None,
    references: int = 9,
    epochs: int = 20,
    weight_decay: float = 5e-4,
    learning_rate: float = 0.1,
    repair: tuple[str, ...] = (),
    out: str | None = None,
    data_root: str | None = os.environ.get("RAYBD_DATA"),
    json: bool = False,
    csv: bool = False,
    latex: bool = False,
) -> int:
    """Inspect a network that is already trained: does it look backdoored, beside clean ones trained here?

    Args:
        model: Its file: a state_dict (with --network), TorchScript, a .pt2 program of torch.export, or ONNX.
        data: The images, taken to be clean: digits, mnist, ..., npz:PATH or folder:PATH.
        network: How raybd builds it: small_cnn, ..., torchvision:NAME or module:function (runs that code).
        width: Of the network.
        depth: Of the network.
        noise: Of the network.
        mean: Of each channel in [0, 1], where the network wants normalised images; none: it normalises itself.
        std: Likewise.
        attack: The trigger, where one is known: NAME, NAME:PRESET or NAME:SETTING=VALUE,...
        references: Clean networks to train and compare with; n can give a p-value of 1/(n+1) at best. They are kept.
        epochs: Of their training.
        weight_decay: Of their training.
        learning_rate: Of their training.
        repair: Repairs to try: anp, clp, fine_pruning, fine_tuning, ft_sam, ibau, nad, neural_cleanse, npd or
            sau, or NAME:SETTING=VALUE,...
        out: File of the repaired network: x.pt (its state_dict), x.pt2 or x.onnx; of several, x-NAME.pt.
        data_root: Folder with the data sets.
        json: Print JSON.
        csv: Print CSV.
        latex: Print a LaTeX table.
    """
    import torch

    from raybd.data import augmentation
    from raybd.errors import InputError
    from raybd.inspection import inspect_model
    from raybd.training import TrainConfig
    from raybd.utils.constraints import violations

    form = TableFormat(json, csv, latex)
    crop, flip = augmentation(data)
    train = TrainConfig(epochs=epochs, weight_decay=weight_decay, learning_rate=learning_rate, crop=crop, flip=flip)
    if found := violations(train):
        raise InputError(found)
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    done = inspect_model(
        model,
        data,
        network=network,
        width=width,
        depth=depth,
        noise=noise,
        mean=mean,
        std=std,
        attack=attack,
        references=references,
        train=train,
        repairs=repair,
        out=out,
        data_root=data_root,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    frame = done.to_frame().reset_index()
    if json:
        verdict = {"status": done.verdict.status, "reason": done.verdict.reason, "p": done.verdict.p}
        print(format_json({"verdict": verdict, "figures": frame.to_dict("records"), "limits": list(done.limits)}))
    else:
        print(form.of(frame, lambda: str(done)))
    return 0
