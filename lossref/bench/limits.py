"""What the machine can do with an array: copy it, read it; and multiply matrices.

These take turns with the kernels, on arrays of the same size and with the same threads, so a kernel's share of its
limit is a ratio within one run.
"""

import numpy as np
from numba import njit

from lossref.kernels.rows import in_parallel, pieces


@njit(nogil=True, fastmath=True)
def total(piece):
    """The sum, in any order: one read of memory and next to no arithmetic."""
    found = piece.dtype.type(0)
    for j in range(piece.size):
        found += piece[j]
    return found


def copy(source, target):
    """target[...] = source, by the C library's memcpy, divided among the threads."""
    flat, to = source.reshape(-1), target.reshape(-1)
    in_parallel(lambda a, b: np.copyto(to[a:b], flat[a:b]), pieces(flat.size, 1))
    return target


def read(source):
    """Every element read once."""
    flat = source.reshape(-1)
    return in_parallel(lambda a, b: total(flat[a:b]), pieces(flat.size, 1))


def three_products(hidden, classifier, logits, d_hidden, d_classifier):
    """The products of linear cross-entropy and nothing between them, some rows at a time as in the kernel."""
    each = logits.shape[0]
    for start in range(0, hidden.shape[0], each):
        rows = hidden[start : start + each]
        part = logits[: rows.shape[0]]
        np.matmul(rows, classifier.T, out=part)
        np.matmul(part, classifier, out=d_hidden[start : start + each])
        np.matmul(part.T, rows, out=d_classifier)
    return d_hidden, d_classifier


def eight_products(queries, keys, values, d_queries, d_keys, d_values):
    """The products of attention's value and gradient and nothing between them, block by block as in the kernel."""
    from lossref.kernels.softmax_attention import KEYS, QUERIES

    for start in range(0, len(queries), QUERIES):
        rows = slice(start, start + QUERIES)
        for first in range(0, len(keys), KEYS):
            block = slice(first, first + KEYS)
            for _ in range(2):
                logits, w = np.matmul(queries[rows], keys[block].T), np.matmul(queries[rows], values[block].T)
            np.matmul(logits, values[block])
            np.matmul(w, keys[block], out=d_queries[rows])
            np.matmul(w.T, queries[rows], out=d_keys[block])
            np.matmul(logits.T, queries[rows], out=d_values[block])
    return d_queries, d_keys, d_values
