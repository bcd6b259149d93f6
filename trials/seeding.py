"""How every random number of a trial follows from its seed."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, *words: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derived_seed(seed, "draws", epoch)`.

    The first 63 bits of the SHA-256 of the words joined by "/", so that (seed 1, epoch 0) and (seed 0,
    epoch 1) have nothing in common, which sums and products of small numbers do not give. Whatever draws in
    an epoch is seeded from (seed, epoch): a trial resumed at an epoch boundary needs no saved random state.
    """
    text = "/".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
