"""Flax modules that model families share."""
