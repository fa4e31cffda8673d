"""Losses of a classifier over its logits."""
