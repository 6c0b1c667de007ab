"""The commands of tools/scaling.py that take anybody's table: their flags and their work."""
