"""Changes to byte strings, seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence

_NUMBERS = (0, 1, 2, 3, 47, 48, 127, 128, 255, 256, 511, 512, 8191, 8192, 65535, 65536, 0xFFFFFF, 0x7FFFFFFF)
_SIZES = (1, 2, 3, 4)


def mutate_bytes(rng: random.Random, data: bytes, tokens: Sequence[bytes], other: bytes) -> bytes:
    """`data` after one to six random changes; `other` is an input to splice from."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        where = rng.randrange(len(out) + 1)
        run = rng.choice((1, 2, 4, 8, 48, rng.randint(1, 64)))
        match rng.randrange(9):
            case 0 if out:
                out[where % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[where % len(out)] = rng.randrange(256)
            case 2:
                del out[where : where + run]
            case 3:
                out[where:where] = out[where : where + run]
            case 4:
                out[where:where] = rng.randbytes(run)
            case 5:
                token = rng.choice(tokens) if tokens else b"\0"
                out[where : where + rng.choice((0, len(token)))] = token
            case 6:
                size = rng.choice(_SIZES)
                number = rng.choice(_NUMBERS) + rng.choice((-1, 0, 0, 0, 1))
                out[where : where + size] = (number % (1 << 8 * size)).to_bytes(size, "big")
            case 7 if out:
                position = where % len(out)
                out[position] = (out[position] + rng.choice((-1, 1, 4, -4))) & 0xFF
            case _:
                start = rng.randrange(len(other) + 1)
                out[where : where + rng.choice((0, run))] = other[start : start + run]
    return bytes(out)
