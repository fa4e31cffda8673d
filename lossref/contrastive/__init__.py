"""Losses that compare each sample with the others of its batch."""
