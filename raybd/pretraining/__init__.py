"""Features without labels: self-supervised encoders (SimCLR, NNCLR) and frozen networks.

    config = PretrainConfig(epochs=40)      # method "simclr" or "nnclr"; views None: `default_views` of the images
    result = pretrain_once(model, x, config, seed, cache_folder, heartbeat)  # the Classifier, in place
    result.losses, result.seconds, result.reused
    v = embed(model, x)                     # (N, D) float32, the input of its head
    v = frozen_features(source, x, weights=..., seed=seed, cache_folder=..., heartbeat=...)
    v = embed(extractor(source, weights=..., seed=seed), x)  # the same for any images, triggered ones too

`x` is (N, C, H, W) uint8: labels cannot come in. `source` is a Classifier, "torchvision:NAME" with `weights` "random"
or a file, "module:function" (uint8 images to (n, D) floats), or a .npy or .npz file of rows. The head of a network is
not trained, and all that start from the same weights with the same pixels, settings, seed and kind of device share an
encoder.
"""

from raybd.pretraining.augmentations import Views, default_views, random_views
from raybd.pretraining.config import PretrainConfig
from raybd.pretraining.encoder_cache import pretrain_once
from raybd.pretraining.feature_files import fingerprint
from raybd.pretraining.features import embed, extractor, frozen_features
from raybd.pretraining.frozen_backbone import FrozenBackbone
from raybd.pretraining.loop import PretrainResult, pretrain

__all__ = [
    "FrozenBackbone",
    "PretrainConfig",
    "PretrainResult",
    "Views",
    "default_views",
    "embed",
    "extractor",
    "fingerprint",
    "frozen_features",
    "pretrain",
    "pretrain_once",
    "random_views",
]
