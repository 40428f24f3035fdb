"""Backdoor smoothing: noise, votes, entropies, controls, comparisons, certificates, and the rule for a claim."""
