"""Pairs of texts as data: a source and its target, read from files and tables and put into rows."""
