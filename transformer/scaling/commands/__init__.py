"""The commands of tools/scaling.py that take anybody's table: what they are asked, and what they do."""
