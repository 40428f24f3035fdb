"""Trials: config in, record out; clean twins, a trial's folder on disk and its artifacts."""
