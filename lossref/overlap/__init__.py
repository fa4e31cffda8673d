"""Losses that measure the overlap of a predicted and a true region or set."""
