"""Well-shaped sizes of an architecture."""
