"""A small convolutional network in PyTorch on folders of images: python torch_recipe.py train DATA OUT, and predict."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn


def network() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def fit(x: Any, y: Any, seed: int, weight_decay: float, epochs: int) -> nn.Module:
    """The network trained by AdamW: x (N, 8, 8) uint8."""
    torch.manual_seed(seed)
    model, images, labels = network(), torch.from_numpy(x)[:, None].float() / 255, torch.from_numpy(y)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=weight_decay)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(128):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimiser.step()
    return model


def scores(model: nn.Module, x: Any) -> Any:
    """(N, 10) logits."""
    with torch.no_grad():
        return model(torch.from_numpy(x)[:, None].float() / 255).numpy()


def read(folder: Path) -> tuple[Any, Any]:
    """The images of a folder of classes, by class and file name."""
    files = sorted(folder.glob("*/*.png"))
    names = sorted({file.parent.name for file in files})
    return np.stack([np.asarray(Image.open(f)) for f in files]), np.array([names.index(f.parent.name) for f in files])


def main() -> None:
    """Train, or predict scores as CSV."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "predict"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "train":
        data, out = given.paths
        model = fit(*read(data / "train"), given.seed, given.weight_decay, given.epochs)
        torch.save(model.state_dict(), out / "weights.pt")
    else:
        out, data, predictions = given.paths
        model = network()
        model.load_state_dict(torch.load(out / "weights.pt", weights_only=True))
        np.savetxt(predictions, scores(model, read(data / "test")[0]), delimiter=",")


if __name__ == "__main__":
    main()
