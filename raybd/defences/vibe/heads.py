"""The two heads of VIBE: p(l|x) of the latent clean label, which is deployed, and p(y|l) or p(y|l,x) of the given one.

v (N, D) are a backbone's features, mu and eta (K, D) the clean and the corrupted prototypes, a hat is L2-normalised.

    p(l=j|x)        = softmax_j(kappa v^ . mu^_j + ln pi_j),   pi = softmax(c theta)
    variant A:        p(y=i|l=j)   = softmax_i(nu eta^_i . mu^_j)
    variant F:        p(y=i|l=j,x) = softmax_i(nu eta^_i . (mu^_j + v)),   F_unit: with v^ for v

Sabolic, Grcic and Segvic, arXiv:2503.08829 and their code. What F adds: where v alone foretells y, as a trigger does,
y says nothing of l, and l is left to p(l|x).
"""

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raybd.models import Classifier
from raybd.seeds import stream

Variant = Literal["A", "F", "F_unit"]
VARIANTS = ("A", "F", "F_unit")
STEEPEST = 40.0  # nu up to which products of exponentials stay normal numbers in float32
BLOCK = 2**24  # numbers of a steep normaliser that live at once
NARROWEST = 1e-3  # spread of cosines, below which features tell nothing of the labels


class Heads(nn.Module):
    """Both heads and the prior. To whom it is deployed it is a linear layer on T = sqrt(D) v^ (`read`)."""

    spread: Tensor  # () of the cosines at the start; only where concentrations are relative to it

    def __init__(
        self,
        classes: int,
        size: int,
        variant: Variant,
        kappa: float,
        nu: float,
        scale: float,
        relative: bool = False,
    ) -> None:
        """`relative`: `kappa` and `nu` count in units of 1 / `cosine_spread` of the features that `start` is given."""
        super().__init__()
        self.in_features, self.out_features = size, classes
        self.variant, self.kappa, self.nu, self.scale, self.relative = variant, kappa, nu, scale, relative
        if relative:
            self.register_buffer("spread", torch.ones(()))
        self.clean = nn.Parameter(torch.zeros(classes, size))  # mu
        self.corrupted = nn.Parameter(torch.zeros(classes, size))  # eta
        self.preference = nn.Parameter(torch.zeros(classes))  # theta

    @torch.no_grad()
    def start(self, v: Tensor, y: Tensor, seed: int) -> None:
        """mu and eta: the mean of `v` (N, D) over each given label of `y` (N,); theta: N(0, 1) of `seed`."""
        ones = F.one_hot(y, self.out_features).to(v.dtype)
        means = ones.T @ v / ones.sum(0)[:, None]
        self.clean.copy_(means)
        self.corrupted.copy_(means)
        if self.relative:
            self.spread.copy_(cosine_spread(v, y, means))
        self.preference.copy_(torch.randn(self.out_features, generator=stream(seed, "prior")))

    def concentration(self, given: float) -> float | Tensor:
        """`given`, which is kappa or nu, as it enters an exponent."""
        return given / self.spread if self.relative else given

    @property
    def bias(self) -> Tensor:
        """ln pi (K,)."""
        return (self.scale * self.preference).log_softmax(0)

    @property
    def weight(self) -> Tensor:
        """kappa mu^ / sqrt(D), (K, D)."""
        return F.normalize(self.clean, dim=1) * (self.concentration(self.kappa) / math.sqrt(self.in_features))

    def read(self, v: Tensor) -> Tensor:
        """T = sqrt(D) v^ (N, D): of length sqrt(D), so that noise on it means what it means on ordinary features."""
        return F.normalize(v, dim=1) * math.sqrt(self.in_features)

    def forward(self, read: Tensor) -> Tensor:
        """kappa v^ mu^ + ln pi (..., K) of `read` (..., D): the logits of p(l|x)."""
        return F.linear(read, self.weight, self.bias)

    def clean_log(self, v: Tensor) -> Tensor:
        """ln p(l|x) (N, K) in nats, of features `v` (N, D)."""
        return self.forward(self.read(v)).log_softmax(1)

    def corrupted_log(self, v: Tensor, y: Tensor) -> Tensor:
        """ln p(y_b|l=j[,x_b]) (B, K) in nats, of features `v` (B, D) and given labels `y` (B,).

        F up to nu = 40 needs O(B K) memory: its logits are A_ji + B_bi, so the normaliser is ln(exp(B) exp(A)'), both
        shifted by their largest. A spans at most 2 nu, so nothing underflows in float32. Steeper ones are summed as
        they stand, in blocks.
        """
        nu, eta = self.concentration(self.nu), F.normalize(self.corrupted, dim=1)
        table = nu * F.normalize(self.clean, dim=1) @ eta.T  # (l, y)
        if self.variant == "A":
            return table.log_softmax(1).T[y]
        own = nu * (F.normalize(v, dim=1) if self.variant == "F_unit" else v) @ eta.T
        steep = self.relative or self.nu > STEEPEST
        normaliser = steep_normaliser(own, table) if steep else flat_normaliser(own, table)
        return own.gather(1, y[:, None]) + table.T[y] - normaliser

    def joint_log(self, v: Tensor, y: Tensor, blind: bool = False) -> Tensor:
        """ln p(l|x) + ln p(y|l[,x]) (B, K); where `blind`, p(y|l) is 1/K, so that y does not count."""
        clean = self.clean_log(v)
        return clean - math.log(self.out_features) if blind else clean + self.corrupted_log(v, y)


def cosine_spread(v: Tensor, y: Tensor, means: Tensor) -> Tensor:
    """How far the cosines of features `v` (N, D) tell the given labels `y` (N,) apart, at least 0.001: ().

    The (lower) median over images of the cosine with the mean (of `means`, (K, D)) of their own given class, less the
    average of those with all others'. A scale of the features counts as nothing; as a median it moves little where
    fewer than half of the labels are wrong.
    """
    cosines = F.normalize(v, dim=1) @ F.normalize(means, dim=1).T
    own = cosines.gather(1, y[:, None])[:, 0]
    others = (cosines.sum(1) - own) / (len(means) - 1)
    return (own - others).median().clamp_min(NARROWEST)


def flat_normaliser(own: Tensor, table: Tensor) -> Tensor:
    """ln sum_i exp(table_ji + own_bi) (B, K) of `own` (B, K) and `table` (K, K), as one product."""
    top, high = own.detach().amax(1, keepdim=True), table.detach().amax(1)
    return ((own - top).exp() @ (table - high[:, None]).exp().T).log() + top + high


def steep_normaliser(own: Tensor, table: Tensor) -> Tensor:
    """The same at any scale: rows in blocks, which are computed anew for the gradient, so that few numbers live."""

    def block(part: Tensor) -> Tensor:
        return (part[:, None] + table).logsumexp(2)

    parts = own.split(max(1, BLOCK // table.numel()))
    return torch.cat([checkpoint(block, part, use_reentrant=False, preserve_rng_state=False) for part in parts])


class VibeNetwork(Classifier):
    """A backbone that VIBE's clean head reads. Its features are T, its head is linear in them, its logits p(l|x)."""

    def __init__(
        self, backbone: Classifier, variant: Variant, kappa: float, nu: float, scale: float, relative: bool = False
    ) -> None:
        super().__init__(backbone.mean.flatten().tolist(), backbone.std.flatten().tolist(), backbone.noise)
        self.backbone = backbone
        self.heads = Heads(backbone.head.out_features, backbone.feature_size, variant, kappa, nu, scale, relative)
        self.head = cast(nn.Linear, self.heads)  # it has what others read of a linear layer

    def features(self, x: Tensor) -> Tensor:
        """T = sqrt(D) v^ (N, D) of the normalised `x` (N, C, H, W)."""
        return self.heads.read(self.backbone.features(x))

    def raw(self, x: Tensor) -> Tensor:
        """v (N, D) of the images `x` (N, C, H, W) in [0, 1]."""
        return self.backbone.features(self.normalise(x))


class LinearNetwork(VibeNetwork):
    """A backbone that a linear head reads, taught by the pseudolabels of VIBE's heads. Ours, not the paper's."""

    def __init__(
        self, backbone: Classifier, variant: Variant, kappa: float, nu: float, scale: float, relative: bool = False
    ) -> None:
        super().__init__(backbone, variant, kappa, nu, scale, relative)
        self.head = nn.Linear(backbone.feature_size, backbone.head.out_features)

    def features(self, x: Tensor) -> Tensor:
        """v (N, D) of the normalised `x` (N, C, H, W)."""
        return self.backbone.features(x)

    @torch.no_grad()
    def deploy(self, weight: Tensor, bias: Tensor) -> None:
        """Let the head have this `weight` (K, D) and `bias` (K,)."""
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)
