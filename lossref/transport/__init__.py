"""Losses that transport one distribution of mass to another."""
