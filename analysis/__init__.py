"""The defended-region map and tables of finished trials; needs neither torch nor Ray."""

from analysis.region_map import DefendedRegionMap
from analysis.slices import MapSlice
from analysis.verdict import Estimate, Verdict

__all__ = ["DefendedRegionMap", "Estimate", "MapSlice", "Verdict"]
