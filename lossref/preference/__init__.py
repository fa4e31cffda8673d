"""Losses that train a policy or a reward from comparisons."""
