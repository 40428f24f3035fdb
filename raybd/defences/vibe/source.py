"""Features of a backbone that is trained along with the heads."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raybd.defences.vibe.heads import VibeNetwork
from raybd.models import Classifier
from raybd.models.noise import without_noise
from raybd.pretraining import embed
from raybd.seeds import stream
from raybd.training import TrainConfig, augment, autocast, prepare
from raybd.types import Images


class TrainableFeatures:
    """Features of `network`'s backbone for `images`; it is trained along, with the augmentation of `train_config`."""

    def __init__(
        self,
        network: VibeNetwork,
        images: Images,
        train_config: TrainConfig,
        seed: int,
        heartbeat: Callable[[], None],
        spend: Callable[[float], None] = lambda images: None,
    ) -> None:
        """`spend` is told how many images go through the network, forward and back; forward alone is a third."""
        self.network, self.images, self.train_config, self.seed, self.heartbeat = (
            network,
            images,
            train_config,
            seed,
            heartbeat,
        )
        self.spend = spend
        self.parameters: Sequence[nn.Parameter] = trained_along(network.backbone)
        self.rng = torch.Generator()

    def begin(self, epoch: int) -> None:
        """Take the random numbers of `epoch` (from 1) from here on."""
        self.rng = stream(self.seed, "augmentation", epoch, device=self.images.x.device)

    def every(self) -> Tensor:
        """v (N, D) of all images as they are, in evaluation mode and without noise."""
        self.spend(len(self.images) / 3)
        with without_noise():
            return embed(self.network.backbone, self.images.x, self.heartbeat)

    def batch(self, index: Tensor) -> Tensor:
        """v (B, D) of the augmented images `index` (B,), in training mode."""
        self.spend(len(index))
        self.network.train()
        x = prepare(
            augment(self.images.x[index], self.train_config.crop, self.train_config.flip, self.rng), self.train_config
        )
        with autocast(self.train_config, x.device):
            v = self.network.raw(x)
        return v.float()


def trained_along(backbone: Classifier) -> list[nn.Parameter]:
    """The parameters of `backbone` that its features rest on: all but those of its own head, which nobody reads."""
    head = {id(weight) for weight in backbone.head.parameters()}
    return [weight for weight in backbone.parameters() if id(weight) not in head]
