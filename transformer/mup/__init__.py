"""Learning rates across widths: muP, the search for a rate, and the coordinate check."""
