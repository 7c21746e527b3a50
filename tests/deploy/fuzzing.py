"""Damage for files, the same for the same seed."""

import random


def mutate(content: bytes, seed: int) -> bytes:
    """Return a file cut short, with flipped bits, with other bytes near its beginning, with a piece
    lost or put in.
    """
    chance, changed = random.Random(seed), bytearray(content)
    place = chance.randrange(len(content))
    kind = seed % 5
    if kind == 0:
        del changed[place:]
    elif kind == 1:
        for _ in range(chance.randrange(1, 9)):
            changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == 2:
        for _ in range(chance.randrange(1, 5)):
            changed[chance.randrange(min(4000, len(content)))] ^= chance.randrange(1, 256)
    elif kind == 3:
        del changed[place : place + chance.randrange(1, 64)]
    else:
        changed[place:place] = chance.randbytes(chance.randrange(1, 32))
    return bytes(changed)
