"""Hugging Face weights, in and out: an engine, and a table a family."""
