"""Starting from other weights: what is taken, extended and left out."""
