"""Sweeps: many runs of `train.py`, made side by side and gone on with, and the values that they differ in."""
