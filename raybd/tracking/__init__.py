"""Tracking: the only package that imports mlflow."""

from raybd.tracking.reading import load_figures, load_histories, load_record, load_runs
from raybd.tracking.tagging import tag_runs

__all__ = ["load_figures", "load_histories", "load_record", "load_runs", "tag_runs"]
