"""Transplants: a small window of an image that turns other images into its class holds a trigger.

After SentiNet (Chou, Tramer and Pellegrino, arXiv:1812.00292), which asks it of images at test. The window is the one
on which the network's margin for the image's label rests the most: gradient times the deviation from the mean image,
summed over the window. It is pasted on images of other labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.auditing.features import AuditFeatures, Floats
from raybd.auditing.probing import BATCH, donors, probabilities, unit
from raybd.models import Classifier

DONORS = 20  # images on which each window is pasted
PART = 6  # of the image's shorter side is the window's
AT_ONCE = 16  # images whose windows are pasted at once


def transplant_scores(features: AuditFeatures) -> Floats:
    """(N,): mean rise of the probability of an image's label on others that its window is pasted on, in [-1, 1]."""
    images, network = features.images, features.network
    side = max(2, round(min(images.shape[1:]) / PART))
    corners = salient_windows(network, images.x, images.y, side)
    before = probabilities(network, images.x)
    parts = []
    for index in torch.arange(len(images)).split(AT_ONCE):
        to = donors(images.y, index, DONORS, features.seed)
        pasted = paste(images.x[index], corners[index], images.x[to], side)
        after = probabilities(network, pasted.flatten(0, 1)).unflatten(0, to.shape)
        label = images.y[index][:, None, None].expand(*to.shape, 1)
        parts.append((after - before[to]).gather(2, label).mean((1, 2)))
        features.context.heartbeat()
    found: Floats = torch.cat(parts).double().numpy()
    return found


def salient_windows(network: Classifier, x: Tensor, y: Tensor, side: int) -> Tensor:
    """Row and column (N, 2) of the top left pixel of the window of each of `x` (N, C, H, W) that its label `y` (N,)
    rests on."""
    mean = torch.stack([part.float().sum(0) for part in x.split(BATCH)]).sum(0) / (255 * len(x))
    found = []
    for some, label in zip(x.split(BATCH), y.split(BATCH), strict=True):
        pixels = unit(some).requires_grad_()
        logits = network(pixels)
        own = logits.gather(1, label[:, None])[:, 0]
        others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
        (slope,) = torch.autograd.grad((own - others).sum(), pixels)
        weight = F.avg_pool2d((slope * (pixels.detach() - mean)).sum(1, keepdim=True), side, 1)[:, 0]
        best = weight.flatten(1).argmax(1)
        found.append(torch.stack([best // weight.shape[2], best % weight.shape[2]], 1))
    return torch.cat(found)


def paste(x: Tensor, corners: Tensor, to: Tensor, side: int) -> Tensor:
    """`to` (n, M, C, H, W) with the window at `corners` (n, 2) of each of `x` (n, C, H, W) over the same place."""
    made = to.clone()
    for image, (row, column), targets in zip(x, corners.tolist(), made, strict=True):
        window = image[:, row : row + side, column : column + side]
        targets[:, :, row : row + side, column : column + side] = window
    return made
