"""The digits, split into training and validation."""

import numpy as np
from sklearn.datasets import load_digits

VALIDATION = 297


def load_split():
    """Training digits, nine copies of each; validation digits, as they are."""
    digits = load_digits()
    images = digits.images / 16
    order = np.random.default_rng(2026).permutation(len(images))
    val, train = order[:VALIDATION], order[VALIDATION:]

    # nine copies of each digit: in place, and moved by a pixel in every direction
    moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    x = np.concatenate([np.roll(images[train], move, axis=(1, 2)) for move in moves])
    y = np.tile(digits.target[train], len(moves))
    return x.reshape(-1, 64), y, images[val].reshape(-1, 64), digits.target[val]
