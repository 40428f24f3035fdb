"""What patches of one's own do to a network: at once, and after it was trained on some of them for a moment."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.metrics.information.noisy_features import noiseless_features
from raybd.models import Classifier
from raybd.models.noise import without_noise
from raybd.seeds import forked_rng, stream
from raybd.types import Images

RATE, BATCH, LEARNING_RATE, MOMENTUM = 0.05, 64, 0.02, 0.9  # of the canary


def stamped(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Copies of the bytes `x` (N, C, H, W) with a patch of random pixels at a random place, one for all.

    `share`: of the patch's sides in the image's, in (0, 1].
    """
    height, width = x.shape[-2:]
    high, wide = (max(1, round(share * n)) for n in (height, width))
    top, left = (int(torch.randint(n - s + 1, (), generator=rng)) for n, s in ((height, high), (width, wide)))
    patch = torch.randint(256, (x.shape[1], high, wide), generator=rng, dtype=torch.uint8)
    copied = x.clone()
    copied[:, :, top : top + high, left : left + wide] = patch.to(x.device)
    return copied


def patch_flips(classes: Tensor, patched: Tensor, number: int) -> dict[str, float]:
    """What patches do to classes (N,), which become `patched` (P, N), of `number` classes; shares in [0, 1].

    patches/flips: images whose class changes, over all patches. patches/largest: of one patch, those that go over to
    one class, the largest of all patches and classes.
    """
    changed = patched != classes
    counts = torch.stack([((patched == label) & changed).sum(1) for label in range(number)])
    return {
        "patches/flips": float(changed.double().mean()),
        "patches/largest": int(counts.max()) / len(classes),
    }


def canary_success(model: Classifier, train: Images, x: Tensor, seed: int, share: float) -> float:
    """How much a backdoor of one's own gains in one pass over `train`, of which a copy of `model` sees 5 % stamped.

    Plain gradient descent with momentum in batches of 64, without the noise inside the network. Of the bytes `x` (N, C,
    H, W), the share that is in the canary's class when stamped, after less before, in [-1, 1].
    """
    learner, target, rng = copy.deepcopy(model), int(train.y[0]), stream(seed, "defender", "canary")
    with forked_rng(seed, "defender", "canary", "draws", device=x.device):
        both = stamped(torch.cat([train.x, x]), share, rng)
        chosen = torch.randperm(len(train), generator=rng).to(x.device) < RATE * len(train)
        images = torch.where(chosen[:, None, None, None], both[: len(train)], train.x)
        _train(learner, Images(images, train.y.masked_fill(chosen, target)), rng)
    before, after = (float((classes_of(m, both[len(train) :]) == target).double().mean()) for m in (model, learner))
    return after - before


@torch.enable_grad()
def _train(model: Classifier, images: Images, rng: torch.Generator) -> None:
    """One pass over `images`, after which `model` is in evaluation mode."""
    optimizer = torch.optim.SGD(model.train().parameters(), LEARNING_RATE, MOMENTUM)
    with without_noise():
        for batch in torch.randperm(len(images), generator=rng).to(images.x.device).split(BATCH):
            if len(batch) == 1:
                continue  # batch norm needs two
            optimizer.zero_grad()
            F.cross_entropy(model(images.x[batch].float() / 255), images.y[batch]).backward()
            optimizer.step()
    model.eval()


def classes_of(model: Classifier, x: Tensor) -> Tensor:
    """The classes (N,) of the bytes `x` (N, C, H, W), without noise inside the network."""
    features = noiseless_features(model, x)
    with without_noise(), torch.no_grad():
        return model.classify(features).argmax(1)
