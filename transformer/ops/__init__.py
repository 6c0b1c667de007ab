"""Compute without parameters: attention kernels, cross entropy, dropout."""
