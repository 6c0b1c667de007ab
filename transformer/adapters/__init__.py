"""Adapters: a few trainable parameters beside the frozen ones of a model that was trained before."""
