"""SAU: what fools the network and a frozen copy of it alike, image by image, is unlearnt.

Wei, Zhang, Zha and Wu, "Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared Adversarial Examples",
NeurIPS 2023 (arXiv:2307.10562), and the authors' code. h_0 is the network as it was trained, h the one that is
repaired, p and p_0 their probabilities. For each image, in the box |d| <= bound, d ascends

    b1 mean of (CE(h(x + d), y) [h not fooled] + CE(h_0(x + d), y) [h_0 not fooled]) / 2
      - b2 mean of JS(p(x + d), p_0(x + d)) [not both fooled alike],

and h descends

    CE(h(x), y) + u mean of -ln(1 - p_t(x + d)) [t is not y, nor h_0(x)],  t = h_0(x + d),

means over all images of a batch.

Constants: box of 0.2 (images are in [0, 1]), d from its upper corner, five steps of 0.2 along the sign of the gradient,
b1 0.01, b2 1, u 1, Adam at 1e-4 falling along a cosine, 1000 steps (100 passes over 2,500 images in batches of 256),
batch norm as it is deployed: those of the code. It clamps probabilities before the logarithm, which is exact here. An
image with d may leave [0, 1], as there.
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, batches
from raybd.training import learning_rate
from raybd.types import Images
from raybd.utils.constraints import Count, NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Sau(CleanRepair):
    """Shared adversarial examples of the clean images, and a step that unlearns them, again and again."""

    steps: Count = 1000
    learning_rate: Positive = 1e-4  # of Adam
    bound: Positive = 0.2
    ascents: Count = 5  # steps on d
    ascent_rate: Positive = 0.2
    fooling: NonNegative = 0.01  # b1
    sharing: NonNegative = 1.0  # b2
    unlearning: NonNegative = 1.0  # u

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Every batch its own examples, and a step."""
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
        model.eval()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        falling = replace(context.train_config, schedule="cosine", learning_rate=self.learning_rate)
        for step, (x, y) in enumerate(batches(clean, context, self.steps, "sau")):
            optimizer.param_groups[0]["lr"] = learning_rate(falling, step, self.steps)
            moved = x + self.shared_examples(model, frozen, x, y)
            loss = self.unlearnt(model, frozen, x, moved, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return {}

    def shared_examples(self, model: nn.Module, frozen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """d (B, C, H, W) of the images `x` (B, C, H, W) with labels `y` (B,)."""
        d = torch.full_like(x, self.bound)
        with torch.no_grad():
            given = model(x).argmax(1), frozen(x).argmax(1)
        for _ in range(self.ascents):
            free = d.requires_grad_()
            loss, open_ = self.inner_loss((model(x + free), frozen(x + free)), given, y)
            (gradient,) = torch.autograd.grad(loss, free)
            d = (free.detach() - self.ascent_rate * gradient.sign()).clamp(-self.bound, self.bound)
            if not open_:
                break
        return d

    def inner_loss(self, logits: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor], y: Tensor) -> tuple[Tensor, bool]:
        """What d descends, and whether an image is left that is not shared; of the logits (B, K) of h and h_0 at
        x + d, and what they say of x, (B,) each."""
        said = [part.argmax(1) for part in logits]
        fooled = [now != before for now, before in zip(said, given, strict=True)]
        shared = fooled[0] & fooled[1] & (said[0] == said[1])
        away = [F.cross_entropy(part, y, reduction="none") * ~hit for part, hit in zip(logits, fooled, strict=True)]
        apart = divergence(*logits) * ~shared
        loss = self.sharing * apart.mean() - self.fooling * torch.stack(away).sum(0).mean() / 2
        return loss, not bool(shared.all())

    def unlearnt(self, model: nn.Module, frozen: nn.Module, x: Tensor, moved: Tensor, y: Tensor) -> Tensor:
        """What h descends, of images `x` (B, C, H, W) and `moved` ones, x + d."""
        logits, adversarial = model(torch.cat([x, moved])).chunk(2)
        with torch.no_grad():
            before, wrong = frozen(x).argmax(1), frozen(moved).argmax(1)
        poisonous = (wrong != y) & (wrong != before)
        shared = (log_denied(adversarial, wrong) * poisonous).mean()
        loss: Tensor = F.cross_entropy(logits, y) - self.unlearning * shared
        return loss


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """The Jensen-Shannon divergence (B,) in nats of the softmax of two logits (B, K)."""
    p, q = first.log_softmax(1), second.log_softmax(1)
    middle = torch.logaddexp(p, q) - math.log(2)
    twice: Tensor = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(1)
    return twice / 2


def log_denied(logits: Tensor, label: Tensor) -> Tensor:
    """ln(1 - p_label) (B,) of logits (B, K) and labels (B,), exact where p_label is 1 but for rounding."""
    others = logits.scatter(1, label[:, None], -torch.inf)
    denied: Tensor = others.logsumexp(1) - logits.logsumexp(1)
    return denied
