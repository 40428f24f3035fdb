"""Planted trainings for `raybd resist`: scripts that raybd never imports, in several layouts and languages."""
