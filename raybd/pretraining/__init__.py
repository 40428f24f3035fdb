"""Features without labels: networks that learn to recognise an image behind random views, and frozen networks.

    config = PretrainConfig(epochs=40)      # method "simclr" or "nnclr"; views None: suited to the images
    spent = encoder(model, x, config, seed, shelf, beat)  # trains the Classifier in place; once for all who share
    spent.seconds, spent.losses, spent.reused             # what it cost whoever trained it; whether that was before
    v = embed(model, x)                     # (N, D) float32, what the head would read
    v = frozen_features(source, x, weights=..., seed=seed, shelf=shelf, beat=beat)
    v = embed(extractor(source, weights=..., seed=seed), x)  # the same for any pixels, triggered ones too

`x` is (N, C, H, W) uint8: labels cannot come in. `source` is a Classifier, "torchvision:NAME" with `weights` "random"
or a file, "module:function" (uint8 images to (n, D) floats), or a .npy or .npz file of rows. The head of a network
stays as it was, and an encoder is shared by all who start from the same weights with the same pixels, settings, seed
and kind of device.
"""

from raybd.pretraining.augmentations import Views, random_views, suited
from raybd.pretraining.config import PretrainConfig
from raybd.pretraining.deployed import FrozenBackbone
from raybd.pretraining.encoder_cache import pretrain_once
from raybd.pretraining.frozen import embed, extractor, frozen_features
from raybd.pretraining.loop import PretrainResult, pretrain
from raybd.pretraining.tables import fingerprint

__all__ = [
    "FrozenBackbone",
    "PretrainConfig",
    "PretrainResult",
    "Views",
    "embed",
    "extractor",
    "fingerprint",
    "frozen_features",
    "pretrain",
    "pretrain_once",
    "random_views",
    "suited",
]
