"""Seeds for everything random: a pure function of what the randomness is for.

Nothing draws from a stream that others draw from too, so a run that is resumed, or cut up among
other processes, meets the same numbers.
"""

import hashlib


def derive_seed(*purpose: int | str) -> int:
    """A seed of 63 bits for a purpose, such as ``derive_seed(run_seed, "mask", clip)``."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
