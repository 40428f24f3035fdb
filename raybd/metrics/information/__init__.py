"""Mutual information in networks: estimators that say what they bound, their controls, and what is drawn of them."""
