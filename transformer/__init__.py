"""A JAX/Flax training system for Transformers: architectures apart from weights, any mesh, exact restores."""
