"""Losses over sequences, summed over alignments or segmentations."""
