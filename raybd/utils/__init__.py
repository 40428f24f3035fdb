"""Small helpers that know nothing of backdoors."""
