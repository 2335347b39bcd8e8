"""Reads of UTF-8 by address, for numba kernels that look at every byte of a corpus.

An address, not the array, is handed from function to function: numba counts references to an array at each call, which
costs more than the read. The caller keeps the array alive and ends it with `PADDING` bytes, so that no read leaves it.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

PADDING = 16  # bytes after the last text: a read of 8 bytes may start at its last byte, or 8 bytes later


def _loader(bits: int):
    def load(typingctx, address):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            value = builder.load(pointer, align=1)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return types.uint64(types.int64), codegen

    return intrinsic(load)


load8, load32, load64 = _loader(8), _loader(32), _loader(64)


@numba.njit
def symbol(address):
    """Code point and length of the UTF-8 sequence at an address. Bytes that are no UTF-8 give some number below 2^21."""
    word = np.int64(load32(address))
    lead = word & 0xFF
    if lead < 0x80:
        return lead, 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (word >> 8 & 0x3F), 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (word >> 8 & 0x3F) << 6 | (word >> 16 & 0x3F), 3
    return (lead & 0x07) << 18 | (word >> 8 & 0x3F) << 12 | (word >> 16 & 0x3F) << 6 | (word >> 24 & 0x3F), 4


CODES = 1 << 21  # entries of a table by code point: more than Unicode has, as many as four bytes can say
