"""The command line of sweeps: options, dry run, progress, summary."""
