"""Faults that processes can provoke, on real sweeps: `make chaos`."""
