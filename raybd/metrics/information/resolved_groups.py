"""Information at a resolution of the images with the trigger and without it, in a network and in its clean twin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from raybd.metrics.information.noisy_features import FRESH_DRAWS, noisy_features, require_classifier
from raybd.metrics.information.resolution import (
    GRIDS,
    Z_DRAWS,
    Resolved,
    isotropic_axes,
    own_axes,
    resolved_information,
)
from raybd.metrics.information.signature import Signature, difference, direction, signature
from raybd.metrics.information.trigger_pairs import BACKDOOR, PLAIN, TriggerPair, scattered
from raybd.metrics.subset import random_subset
from raybd.models import Classifier
from raybd.seeds import forked_rng, stream
from raybd.types import CLEAN, MetricContext
from raybd.utils.metric_names import FRESH

NOISE_IMAGES, NOISE_PASSES = 256, 8  # clean images from which a network's own noise is known, draws of each
SCATTERINGS = 4  # of the trigger's pixels, each a trigger that holds no backdoor
KINDS = {"own": "", "iso": "_isotropic"}  # of noise: how signatures read in it are called
Grids = Mapping[str, tuple[float, ...]]  # by kind
Curves = dict[str, dict[str, Resolved]]  # by kind and group


def resolved_metrics(
    context: MetricContext, pairs: Mapping[str, TriggerPair], passes: int, beside: Mapping[str, Tensor]
) -> dict[str, float]:
    """Curves and signatures of the pairs that `trigger_pairs` found, and curves of the images `beside` them, by group.

    mi/xt_KIND/s_S/GROUP/low, .../loo, of the pairs those of the twin on the same images too, as mi/control/..., and
    mi/signature, mi/signature_isotropic and (of the poisoned training images) mi/signature_backdoor as `signature.py`
    defines them. At rate 0 the network is its own twin: its signature is 0 by definition, and nothing is estimated.
    """
    groups = {name: pair.triggered for name, pair in pairs.items()}
    groups |= {f"{name}_plain": pair.plain for name, pair in pairs.items()}
    if not (groups or beside):
        return {}
    found = {f"mi/samples/{name}": float(len(pair.plain)) for name, pair in pairs.items()}
    both = Comparison.of(context, groups, passes)
    found |= _curve_metrics(both.curves[0], "mi") | _curve_metrics(both.networks[0].curves(beside), "mi")
    if context.twin is None or not pairs:
        return found
    if context.twin is context.model:
        return found | {f"mi/signature{part}": 0.0 for part in ("", "/error", "/direction")}
    return found | _curve_metrics(both.curves[1], "mi/control") | _signatures(both, pairs, context.seed)


@dataclass(frozen=True)
class ResolvedNetwork:
    """One network, and how it is looked at. All networks and groups draw the same noise: what differs is no chance."""

    network: Classifier
    axes: dict[str, Tensor]  # (K, D) by kind: T in units of Z
    passes: int
    seed: int
    epoch: int
    heartbeat: Callable[[], None] = lambda: None  # called at every group

    @classmethod
    def of(cls, model: nn.Module, context: MetricContext, passes: int) -> "ResolvedNetwork":
        """`model`, whose own noise is that on images that no attack has touched."""
        network, clean, epoch = require_classifier(model), _clean_images(context), context.epoch
        with forked_rng(context.seed, "resolution", "noise", epoch, device=clean.device):
            noise = noisy_features(network, clean, NOISE_PASSES)
        axes = {"own": own_axes(noise), "iso": isotropic_axes(noise)}
        return cls(network, axes, passes, context.seed, epoch, context.heartbeat)

    def curves(self, groups: Mapping[str, Tensor], grids: Grids = GRIDS) -> Curves:
        """The curves of the bytes (N, C, H, W) of each group, in the kinds of noise of `grids`."""
        by_group = {name: self._resolve(x, grids) for name, x in groups.items()}
        return {kind: {name: found[kind] for name, found in by_group.items()} for kind in grids}

    def _resolve(self, x: Tensor, grids: Grids) -> dict[str, Resolved]:
        self.heartbeat()
        with forked_rng(self.seed, "resolution", self.epoch, device=x.device):
            t = noisy_features(self.network, x, self.passes + FRESH_DRAWS)
        rng = stream(self.seed, "resolution", "z", self.epoch)  # of the CPU: the same on every device
        z, found = torch.randn(len(x), FRESH_DRAWS, Z_DRAWS, t.shape[-1], generator=rng).to(t), {}
        for kind, grid in grids.items():
            axes = self.axes[kind]
            draws, fresh = (t @ axes.T).split([self.passes, FRESH_DRAWS], 1)
            found[kind] = resolved_information(draws, fresh, z[..., -len(axes) :], grid)
        return found


@dataclass(frozen=True)
class Comparison:
    """A network, and its clean twin where there is another, on the same groups."""

    networks: list[ResolvedNetwork]
    curves: list[Curves]

    @classmethod
    def of(cls, context: MetricContext, groups: Mapping[str, Tensor], passes: int) -> "Comparison":
        """The networks of `context` on the bytes of `groups`."""
        models = [context.model] if context.twin in (None, context.model) else [context.model, context.twin]
        networks = [ResolvedNetwork.of(model, context, passes) for model in models if model is not None]
        return cls(networks, [network.curves(groups) for network in networks])

    def signature(self, kind: str, group: str) -> Signature | None:
        """That of `group` beside the same images without the trigger, in one kind of noise."""
        network, twin = (curves[kind] for curves in self.curves)
        return signature(network, twin, group, f"{group}_plain")

    def with_nulls(self, read: dict[str, Signature], groups: Mapping[str, Tensor]) -> dict[str, Signature]:
        """`read`, by kind, of the fresh images, each with the same of `groups`, which hold no backdoor."""
        looks = [network.curves(groups, {kind: (one.s,) for kind, one in read.items()}) for network in self.networks]
        found = {}
        for kind, one in read.items():
            plain = [{PLAIN: curves[kind][PLAIN]} for curves in self.curves]
            network, twin = (look[kind] | own for look, own in zip(looks, plain, strict=True))
            null = tuple(difference(network, twin, group, PLAIN, one.s) for group in groups)
            found[kind] = replace(one, null=null)
        return found


def _signatures(both: Comparison, pairs: Mapping[str, TriggerPair], seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for group, stem in ((FRESH, "mi/signature"), (BACKDOOR, "mi/signature_backdoor")):
        if group in pairs:
            read = {kind: one for kind in KINDS if (one := both.signature(kind, group))}
            if group == FRESH:
                read = both.with_nulls(read, _without_backdoor(pairs[FRESH], seed))
            for kind, end in KINDS.items():
                name = stem + end
                found |= read[kind].metrics(name) if kind in read else {f"{name}/saturated": 1.0}
            found[f"{stem}/direction"] = float(direction(read.get("own"), read.get("iso")))
    return found


def _curve_metrics(curves: Curves, prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, by_group in curves.items():
        for group, curve in by_group.items():
            found |= curve.metrics(kind, group, prefix)
    return found


def _without_backdoor(pair: TriggerPair, seed: int) -> dict[str, Tensor]:
    rng = stream(seed, "information", "scattered")
    return {f"scattered_{k}": scattered(pair, rng) for k in range(SCATTERINGS)}


def _clean_images(context: MetricContext) -> Tensor:
    """At most `NOISE_IMAGES` training images that no attack has touched, as bytes (M, C, H, W)."""
    untouched = (context.poisoned.roles == CLEAN).nonzero().squeeze(1)
    return context.data.train.x[random_subset(untouched, NOISE_IMAGES, context.seed, "information", "noise")]
