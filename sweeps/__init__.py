"""Sweeps: each script is a list of trials and its options."""
