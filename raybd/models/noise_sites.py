"""Places for noise in torchvision's networks: in every block, as in those of raybd.

The information-bottleneck paper (arXiv:2511.21923) has them after every ReLU of a residual block, not after the
stem's. ConvNeXt and the vision transformers have no ReLU: in a transformer they are after the GELU of each layer's MLP;
in ConvNeXt beside the sum of every block, since a block's own scale (1e-6 before training) would silence what comes
before it. In DenseNet they are after every ReLU of its layers and transitions, but for the last, which is no module of
its own. All have one more between the features and the head.
"""

from torch import nn

from raybd.models.noise import Noise, activation

FAMILIES = (
    "vgg",
    "resnet",
    "resnext",
    "wide_resnet",
    "convnext",
    "densenet",
    "vit_",
)  # by the beginnings of their names
STEMS = ("relu", "features.relu0")  # of ResNet, of DenseNet


def has_sites(name: str) -> bool:
    """Whether the places for noise in torchvision's network `name` are known."""
    return name.startswith(FAMILIES)


def add_sites(name: str, body: nn.Module, noise: float) -> None:
    """Put noise of standard deviation `noise` at the places of `body`, torchvision's network `name`."""
    for place, module in list(body.named_modules()):
        if name.startswith("convnext"):
            if place.endswith(".stochastic_depth"):  # what a block adds to its input goes through it
                body.set_submodule(place, nn.Sequential(module, Noise(noise)))
        elif isinstance(module, nn.GELU):
            body.set_submodule(place, nn.Sequential(module, Noise(noise)))
        elif isinstance(module, nn.ReLU) and place not in STEMS and "classifier" not in place:  # vgg's end
            body.set_submodule(place, activation(noise))
