"""Resized grids are PyTorch's, in both of its bicubic kernels."""

import numpy as np
import pytest
import torch

from transformer.ops.resize import resized_grid


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("old", "new"), [((14, 14), (7, 9)), ((4, 4), (9, 9)), ((5, 5), (8, 3)), ((37, 37), (16, 16))])
def test_it_is_torchs(old, new, antialias):
    grid = np.random.default_rng(0).normal(size=(*old, 6)).astype(np.float32)
    planes = torch.tensor(grid).double().permute(2, 0, 1)[None]
    want = torch.nn.functional.interpolate(planes, new, mode="bicubic", align_corners=False, antialias=antialias)
    have = np.asarray(resized_grid(grid, *new, antialias=antialias))
    np.testing.assert_allclose(have, want[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-6)
