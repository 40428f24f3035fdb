"""VIBE: variational inference of clean labels.

Vibe(variant="A")                       # the defence, for a trial
em = Em(Heads(K, D, "A", 10, 10, 0.02), FrozenFeatures(v), y, EmConfig(), seed)  # on features (N, D) of one's own:
em.start(); em.advance(2000)            # then em.labels, em.posterior(), and heads.clean_log(new features)
plan = solve(scores, prior, 25.0)       # the E-step alone: plan.labels(scores), plan.rows(chunk), plan.error
"""

from raybd.defences.vibe.defence import Vibe
from raybd.defences.vibe.em import Em, EmConfig, FrozenFeatures
from raybd.defences.vibe.heads import Heads, VibeNetwork
from raybd.defences.vibe.transport import Statistics, Transport, balance, measure, solve

__all__ = [
    "Em",
    "EmConfig",
    "FrozenFeatures",
    "Heads",
    "Statistics",
    "Transport",
    "Vibe",
    "VibeNetwork",
    "balance",
    "measure",
    "solve",
]
