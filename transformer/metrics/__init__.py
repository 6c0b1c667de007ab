"""Metrics of tasks, by kept libraries, which load when they are used. No JAX."""
