r"""Cross-entropy of the logits hidden · classifierᵀ + bias, without the table of all of them.

Reference
=========
    a_iv = ⟨h_i, c_v⟩ + b_v,    z = τ tanh(a/τ) under a soft-cap τ, else z = a,    L_i = log Σ_v e^{z_iv},
    S = softmax(z)

    ℓ_i = (1 − ε)(L_i − z_iy) + ε (L_i − 1/V Σ_v z_iv) + ζ L_i²

    G_iv = κ_i ((1 + 2 ζ L_i) S_iv − (1 − ε) δ_vy − ε/V) · dz/da,      ∂h = G C,    ∂C = Gᵀ H,    ∂b = Gᵀ 1

κ is the cotangent. The logits are the only table with both N and V in its shape, and nothing needs it
whole: the loss needs one entry and one log-sum-exp a row, the gradient needs each entry once.

Kernels
=======
Some rows at a time: their logits by one matrix product; the terms and G, written over the
logits, by the kernel of `cross_entropy` (so the label's logit is a number of the same table as the others);
two more products. Three products in all: the gradient is formed while the logits are there. Ignored rows
are left out from the beginning.

With `filter_eps`, a tile of `block_size` = (rows, classes) in which S and the one-hot label differ by less
than that is dropped from all gradients; the loss stays exact. Tiles are laid over the rows that are not
ignored, in order, and over the classes.

All products go through `numpy.matmul`: two BLAS libraries in one loop fight for the processor.
"""

import numpy as np

from lossref.kernels.compilation import kernel
from lossref.kernels.cross_entropy import (
    Problem,
    cross_entropy_forward,
    cross_entropy_forward_and_backward,
)
from lossref.kernels.cross_entropy_of_a_row import logistic, state_without_label
from lossref.kernels.rows import BFLOAT16, apart, check_outs, computed_in, in_parallel, pieces, read_only
from lossref.kernels.streaming_state import largest

__all__ = ["value", "value_and_vjp", "vjp"]

# Rows at a time: enough for the products to be bound by arithmetic, and not more than this many logits.
ROWS, LOGITS = 1024, 1 << 25
# ∂C is added up this many classes at a time, so that each product is still in the cache when it is added.
CLASSES = 1024
TILE = (128, 128)


@kernel
def largest_differences(logits, labels, cap, rows_each, classes_each, differences):
    """differences[t, k] = max |S − onehot| over each tile of rows and classes."""
    differences[:, :] = 0.0
    for i in range(logits.shape[0]):
        row, label, tile = logits[i], labels[i], i // rows_each
        m, r, d = state_without_label(row, label, cap)
        wrong = logistic(d)
        for k in range(differences.shape[1]):
            start, stop = k * classes_each, min((k + 1) * classes_each, row.size)
            if start <= label < stop:
                # 1 − S_y is at least every other S of the row.
                found = wrong
            else:
                found = np.exp(largest(row[start:stop], cap) - m) * wrong / (1.0 + r)
            # NaN stays.
            if differences[tile, k] <= found or found != found:
                differences[tile, k] = found


# Launch
# ======


class Rows:
    """The rows that count: where they stand in the flattened hidden states, and their labels."""

    def __init__(self, hidden, labels, shift, ignore_index):
        labels = np.asarray(labels, np.int64)
        positions = np.arange(labels.size).reshape(labels.shape)
        if shift:
            positions, labels = positions[..., :-shift], labels[..., shift:]
        self.shape = labels.shape
        self.kept = np.flatnonzero(labels.ravel() != ignore_index)
        self.position = positions.ravel()[self.kept]
        self.label = np.ascontiguousarray(labels.ravel()[self.kept])
        self.hidden = hidden.reshape(-1, hidden.shape[-1])


class Arguments:
    """hidden, classifier and bias in the dtype in which the kernel computes."""

    def __init__(self, hidden, classifier, bias):
        self.given = (np.asarray(hidden), np.asarray(classifier), None if bias is None else np.asarray(bias))
        names = ("hidden", "classifier", "bias")
        present = [(n, a) for n, a in zip(names, self.given, strict=True) if a is not None]
        self.dtype = np.result_type(*[computed_in(name, array) for name, array in present])
        self.hidden = np.asarray(self.given[0], self.dtype)
        self.classifier = np.asarray(self.given[1], self.dtype)
        self.bias = None if bias is None else np.asarray(self.given[2], self.dtype)

    def logits(self, hidden, buffer):
        np.matmul(hidden, self.classifier.T, out=buffer)
        if self.bias is not None:
            np.add(buffer, self.bias, out=buffer)
        return read_only(buffer, self.dtype)


def rows_at_a_time(classes, block_size, filter_eps):
    rows, _ = tile_of(block_size, classes)
    wanted = min(ROWS, max(128, LOGITS // max(classes, 1)))
    if filter_eps is None:
        return rows if isinstance(block_size, tuple) else wanted
    return rows * max(1, wanted // rows)


def tile_of(block_size, classes):
    rows, columns = TILE
    if isinstance(block_size, tuple | list):
        rows, columns = block_size
    elif block_size is not None:
        columns = block_size
    return int(rows), min(int(columns), max(classes, 1))


def filter_limit(filter_eps, dtype):
    """ "auto" is eps/32 of the dtype of the hidden states: what is lost to rounding in a sum of ordinary
    size."""
    if filter_eps != "auto":
        return filter_eps
    return 2.0**-12 if dtype == BFLOAT16 else float(np.finfo(dtype).eps) / 32


def runs(kept):
    """(start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def value(
    hidden,
    classifier,
    labels,
    *,
    bias=None,
    softcap=None,
    ignore_index=-100,
    label_smoothing=0.0,
    z_loss_weight=0.0,
    filter_eps=None,
    block_size=None,
    shift=0,
):
    """The terms, in the shape of labels[..., shift:]."""
    arguments = Arguments(hidden, classifier, bias)
    rows = Rows(arguments.hidden, labels, shift, ignore_index)
    terms = np.zeros(rows.shape, arguments.dtype)
    classes = arguments.classifier.shape[0]
    each = rows_at_a_time(classes, block_size, filter_eps)
    buffer = np.empty((min(each, rows.kept.size), classes), arguments.dtype)
    for start in range(0, rows.kept.size, each):
        now = slice(start, min(start + each, rows.kept.size))
        count = now.stop - now.start
        logits = arguments.logits(rows.hidden[rows.position[now]], buffer[:count])
        problem = Problem(
            logits,
            rows.label[now],
            None,
            None,
            label_smoothing,
            softcap,
            z_loss_weight,
            classes,
            arguments.dtype,
        )
        found = np.empty(count, arguments.dtype)
        in_parallel(
            lambda a, b, problem=problem, found=found: cross_entropy_forward(*problem.rows(a, b), found[a:b]),
            pieces(count, classes),
        )
        terms.ravel()[rows.kept[now]] = found
    return terms.astype(arguments.given[0].dtype, copy=False)


def value_and_vjp(
    hidden,
    classifier,
    labels,
    *,
    cotangent,
    bias=None,
    softcap=None,
    ignore_index=-100,
    label_smoothing=0.0,
    z_loss_weight=0.0,
    filter_eps=None,
    block_size=None,
    shift=0,
    out=None,
):
    """The terms, and (∂hidden, ∂classifier) or (∂hidden, ∂classifier, ∂bias); `out` is a tuple of arrays
    for them."""
    arguments = Arguments(hidden, classifier, bias)
    rows = Rows(arguments.hidden, labels, shift, ignore_index)
    terms = np.zeros(rows.shape, arguments.dtype)
    scales = np.broadcast_to(np.asarray(cotangent, np.float64), rows.shape).ravel()[rows.kept]
    classes = arguments.classifier.shape[0]
    gradients = Gradients(arguments, rows, out)
    each = rows_at_a_time(classes, block_size, filter_eps)
    buffer = np.empty((min(each, rows.kept.size), classes), arguments.dtype)
    for start in range(0, rows.kept.size, each):
        now = slice(start, min(start + each, rows.kept.size))
        count = now.stop - now.start
        states = rows.hidden[rows.position[now]]
        logits = arguments.logits(states, buffer[:count])
        problem = Problem(
            logits,
            rows.label[now],
            None,
            None,
            label_smoothing,
            softcap,
            z_loss_weight,
            classes,
            arguments.dtype,
        )
        tiles = kept_tiles(problem, filter_eps, block_size, arguments.given[0].dtype)
        found, scale = np.empty(count, arguments.dtype), read_only(scales[now], np.float64)
        in_parallel(
            lambda a, b, problem=problem, found=found, scale=scale: cross_entropy_forward_and_backward(
                *problem.rows(a, b), found[a:b], scale[a:b], buffer[a:b], False
            ),
            pieces(count, classes),
        )
        terms.ravel()[rows.kept[now]] = found
        for first, last, spans in tiles:
            part = slice(now.start + first, now.start + last)
            gradients.add(buffer[first:last], states[first:last], rows.position[part], spans)
    return terms.astype(arguments.given[0].dtype, copy=False), gradients.results()


def vjp(hidden, classifier, labels, *, cotangent, **options):
    """(∂hidden, ∂classifier) or (∂hidden, ∂classifier, ∂bias)."""
    return value_and_vjp(hidden, classifier, labels, cotangent=cotangent, **options)[1]


def kept_tiles(problem, filter_eps, block_size, dtype):
    """[(first row, last row, [(first class, last class), …]), …] of what enters the gradients."""
    count, classes = problem.logits.shape
    if filter_eps is None:
        return [(0, count, [(0, classes)])]
    rows_each, classes_each = tile_of(block_size, classes)
    differences = np.empty((-(-count // rows_each), -(-classes // classes_each)))
    starts = range(0, count, rows_each)
    largest_differences(problem.logits, problem.labels, problem.cap, rows_each, classes_each, differences)
    # A NaN row must not hide: its tile is kept.
    kept = ~(differences < filter_limit(filter_eps, dtype))
    return [
        (
            start,
            min(start + rows_each, count),
            [(a * classes_each, min(b * classes_each, classes)) for a, b in runs(line)],
        )
        for start, line in zip(starts, kept, strict=True)
    ]


class Gradients:
    """∂hidden, ∂classifier and ∂bias, to which the tiles of G are added."""

    def __init__(self, arguments, rows, out):
        self.arguments, self.out = arguments, out
        given = [array for array in arguments.given if array is not None]
        if out is not None:
            check_outs(out, given)
        self.hidden, self.classifier = (self.sums(k, given) for k in range(2))
        self.hidden = self.hidden.reshape(rows.hidden.shape)
        self.hidden.fill(0)
        self.bias = None if arguments.bias is None else np.zeros(arguments.bias.shape)
        # Of the classifier's gradient nothing is written yet: the first product is stored, not added.
        self.written = np.zeros(arguments.classifier.shape[0], bool)
        self.product = np.empty((min(CLASSES, len(self.classifier)), self.classifier.shape[1]), arguments.dtype)

    def sums(self, k, given):
        """Where the gradient of argument k is added up: in `out` if it can be, and if no argument is still needed
        there."""
        if self.out is None or self.out[k].dtype != self.arguments.dtype:
            return np.empty(given[k].shape, self.arguments.dtype)
        return apart(self.out[k], given)

    def add(self, gradient, states, positions, spans):
        """One strip of G, rows × classes, of which only the spans of classes count."""
        for first, last in spans:
            part = gradient[:, first:last]
            product = np.matmul(part, self.arguments.classifier[first:last])
            self.hidden[positions] = product if len(spans) == 1 else self.hidden[positions] + product
            if self.bias is not None:
                self.bias[first:last] += part.sum(0, dtype=np.float64)
            self.add_to_classifier(part, states, first, last)

    def add_to_classifier(self, part, states, first, last):
        written = self.written[first:last]
        if not written.any():
            np.matmul(part.T, states, out=self.classifier[first:last])
        else:
            for start in range(first, last, CLASSES):
                stop = min(start + CLASSES, last)
                product = np.matmul(
                    part[:, start - first : stop - first].T, states, out=self.product[: stop - start]
                )
                fresh = ~self.written[start:stop]
                if fresh.any():
                    self.classifier[start:stop][fresh] = 0
                np.add(self.classifier[start:stop], product, out=self.classifier[start:stop])
        written[:] = True

    def results(self):
        self.classifier[~self.written] = 0
        found = [self.hidden.reshape(self.arguments.given[0].shape), self.classifier]
        if self.bias is not None:
            found.append(self.bias)
        given = [array for array in self.arguments.given if array is not None]
        if self.out is None:
            return tuple(f.astype(a.dtype, copy=False) for f, a in zip(found, given, strict=True))
        for f, target in zip(found, self.out, strict=True):
            if not np.may_share_memory(f, target):
                target[...] = f
        return tuple(self.out)
