"""Splitting a model over devices: meshes, rules from logical axes to mesh axes, and layouts."""
