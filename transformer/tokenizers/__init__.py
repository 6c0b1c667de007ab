"""Tokenizers: text to ids and back. Trained, read, written."""
