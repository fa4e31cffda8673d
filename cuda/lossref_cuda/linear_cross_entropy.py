"""Cross-entropy of the logits hidden . classifier^T + bias, without the table of all of them.

    a = H C^T + b,    z = c tanh(a / c) if softcap = c, else z = a,    S = softmax(z)

    term_i  =  (1 - eps) (-log S_iy)  +  eps/V sum_v (-log S_iv)  +  zeta lse(z_i)**2

    G = d (sum of cotangent * terms) / d a,    dH = G C,    dC = G^T H,    db = G^T 1

Some rows at a time: their logits by a matrix product; the terms, and G written over the logits, by the kernels of
`cross_entropy`, so that the label's logit is a number of the same table as the others, and is left out of the sum;
two more products. Three products in all, and never more than one chunk of logits. dC is added up in float32 (float64
for float64), whatever the dtype of the arrays.

Rungs: who makes the products. The reasons of the first three are in `matrix_products`.

    one_thread_per_entry         the definition
    shared_memory_tiles          each number that is read is used many times
    tensor_core_tiles            bfloat16 only
    library_products             the GEMM of the library that owns the arrays, PyTorch or CuPy, which is as fast as
                                 the GPU; the rest is what cross-entropy costs anyway

The gradient filter drops from all gradients each tile of `block_size` = (rows, classes) in which S and the one-hot
label differ by less than filter_eps everywhere; the value stays exact. Tiles are laid over the rows that are not
ignored, in order, and over the classes, in order. Our own rungs skip a dropped tile on the device; a library needs to
be told, so the host waits for the flags of each chunk.

vocabulary_order="mean_logit" lays the tiles over the classes in ascending order of their mean logit, so that what
matters shares tiles and more of them can be dropped. It costs a copy of the classifier and of its gradient. An array
is an order of the caller's, for instance that of an earlier step.

A label outside [0, V) that is not ignore_index makes its own term NaN, and the gradients of everything that its row
touches: its own hidden state and the whole classifier.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import ml_dtypes
import numba
import numpy as np
from numba import cuda

from lossref_cuda import cross_entropy, library_products, matrix_products
from lossref_cuda.cross_entropy import capped, sigmoid, summarise_rivals, target_logit
from lossref_cuda.device_arrays import Call, arithmetic_dtype, lives_on_device, storage_dtype
from lossref_cuda.instructions import SIMULATED, exp, load, load_at, log1p, real, store, store_at
from lossref_cuda.launching import THREADS, chosen, configured
from lossref_cuda.library_products import Library, LibraryProducts, library_of
from lossref_cuda.log_sum_exp_state import add, merge
from lossref_cuda.matrix_products import TILE, OwnProducts
from lossref_cuda.reduction_of_terms import Reduction, of_nothing

IGNORED = -1  # what the chunks' labels say of a row that does not count

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(hidden: np.ndarray, classifier: np.ndarray, labels: np.ndarray) -> tuple:
    """Terms, dH and dC in NumPy, without the options and with all the logits."""
    terms, g = cross_entropy.reference(hidden @ classifier.T, labels)
    return terms, g @ classifier, g.T @ hidden


# ============================================================================================================
# Rungs: the rows, in order
# ============================================================================================================
# Nothing below reads more than one number a row or copies more than the hidden states.


@cuda.jit
def number_rows(length, shift, candidates):
    """The positions of the states that predict something: all but the last `shift` of each sequence."""
    k = cuda.grid(1)
    if k < candidates.shape[0]:
        candidates[k] = k + (k // (length - shift)) * shift


@cuda.jit
def put_kept_rows_first(candidates, labels, shift, ignore_index, positions):
    """The same positions, those with an ignored label last; otherwise in order. One block: each thread has a
    stretch, and learns how many rows were kept before it."""
    kept_by = cuda.shared.array(THREADS, numba.int64)
    count = candidates.shape[0]
    each = (count + THREADS - 1) // THREADS
    start = min(cuda.threadIdx.x * each, count)
    stop = min(start + each, count)
    kept = 0
    k = start
    while k < stop:
        if labels[candidates[k] + shift] != ignore_index:
            kept += 1
        k += 1
    kept_by[cuda.threadIdx.x] = kept
    cuda.syncthreads()
    before, total, thread = 0, 0, 0
    while thread < THREADS:
        if thread < cuda.threadIdx.x:
            before += kept_by[thread]
        total += kept_by[thread]
        thread += 1
    to_kept, to_ignored = before, total + (start - before)
    k = start
    while k < stop:
        if labels[candidates[k] + shift] != ignore_index:
            positions[to_kept] = candidates[k]
            to_kept += 1
        else:
            positions[to_ignored] = candidates[k]
            to_ignored += 1
        k += 1


@cuda.jit
def gather_labels(labels, positions, shift, ignore_index, columns, inverse, sorted_classes, row_labels):
    """The label of each row: IGNORED, or V if it is impossible, or its place in the vocabulary's order."""
    k = cuda.grid(1)
    if k < positions.shape[0]:
        label = labels[positions[k] + shift]
        if label == ignore_index:
            label = IGNORED
        elif label < 0 or label >= columns:
            label = columns
        elif sorted_classes:
            label = inverse[label]
        row_labels[k] = label


@cuda.jit
def gather_numbers(numbers, positions, length, shift, row_numbers):
    """row_numbers[k] = the number of the state at positions[k], from an array in the shape of the terms."""
    k = cuda.grid(1)
    if k < positions.shape[0]:
        place = positions[k] - (positions[k] // length) * shift
        store_at(row_numbers, k, real(row_numbers, load_at(numbers, place)))


@cuda.jit
def scatter_numbers(row_numbers, positions, length, shift, numbers):
    """The way back."""
    k = cuda.grid(1)
    if k < positions.shape[0]:
        place = positions[k] - (positions[k] // length) * shift
        store_at(numbers, place, real(numbers, load_at(row_numbers, k)))


@cuda.jit
def gather_rows(source, rows, target):
    """target[k] = source[rows[k]]."""
    k = cuda.blockIdx.x
    row = rows[k]
    j = cuda.threadIdx.x
    while j < source.shape[1]:
        store(target, k, j, real(target, load(source, row, j)))
        j += THREADS


@cuda.jit
def scatter_rows(computed, rows, target):
    """target[rows[k]] = computed[k], rounded to what target stores."""
    k = cuda.blockIdx.x
    row = rows[k]
    j = cuda.threadIdx.x
    while j < computed.shape[1]:
        store(target, row, j, real(target, load(computed, k, j)))
        j += THREADS


@cuda.jit
def round_rows(computed, target):
    """target = computed, rounded to what target stores."""
    row = cuda.blockIdx.x
    j = cuda.threadIdx.x
    while j < computed.shape[1]:
        store(target, row, j, real(target, load(computed, row, j)))
        j += THREADS


@cuda.jit
def add_column_sums(g, sums):
    """sums + the sum of each column: neighbours read neighbours, and the order never changes."""
    j = cuda.grid(1)
    if j < g.shape[1]:
        total = real(g, 0.0)
        lost = real(g, 0.0)
        row = 0
        while row < g.shape[0]:
            total, lost = add(total, lost, load(g, row, j))
            row += 1
        sums[j] += real(sums, total) - real(sums, lost)


# ============================================================================================================
# Rungs: the gradient filter
# ============================================================================================================


@cuda.jit
def find_tiles_that_matter(chunk, labels, softcap, limit, pieces_m, pieces_r, rows_each, classes_each, kept):
    """kept[tile] = 1 where |S - onehot| reaches the limit somewhere. One block a tile, one warp a row of it;
    (pieces_m, pieces_r) is the state of the label's rivals."""
    cap = real(chunk, softcap)
    inverse = real(chunk, 1.0) / cap if softcap > 0.0 else cap
    one, threshold = real(chunk, 1.0), real(chunk, limit)
    start = cuda.blockIdx.x * classes_each
    stop = min(start + classes_each, chunk.shape[1])
    end = min((cuda.blockIdx.y + 1) * rows_each, chunk.shape[0])
    row = cuda.blockIdx.y * rows_each + (cuda.threadIdx.x >> 5)
    matters = 0
    while row < end:
        label = labels[row]
        if label == chunk.shape[1]:
            matters = 1  # impossible: NaN everywhere, which must not hide
        elif label != IGNORED:
            target = target_logit(chunk, row, label, cap, inverse)
            m, r = load(pieces_m, row, 0), load(pieces_r, row, 0)
            miss = sigmoid((m - target) + log1p(r))  # 1 - S_y
            m, r = merge(m, r, target, real(chunk, 0.0))
            j = start + (cuda.threadIdx.x & 31)
            while j < stop:
                found = miss
                if j != label:
                    found = exp(capped(load(chunk, row, j), cap, inverse) - m) / (one + r)
                if not found < threshold:  # so that NaN matters
                    matters = 1
                j += 32
        row += THREADS >> 5
    matters = cuda.syncthreads_or(matters)
    if cuda.threadIdx.x == 0:
        kept[cuda.blockIdx.y, cuda.blockIdx.x] = 1 if matters else 0


@cuda.jit
def clear_dropped_tiles(g, kept, rows_each, classes_each):
    """G = 0 in every tile that is not kept: one block a tile."""
    if kept[cuda.blockIdx.y, cuda.blockIdx.x] == 0:
        start = cuda.blockIdx.x * classes_each
        stop = min(start + classes_each, g.shape[1])
        row = cuda.blockIdx.y * rows_each
        end = min(row + rows_each, g.shape[0])
        while row < end:
            j = start + cuda.threadIdx.x
            while j < stop:
                store(g, row, j, real(g, 0.0))
                j += THREADS
            row += 1


@cuda.jit
def find_live_groups(kept, rows_each, classes_each, alive):
    """alive[group] = 1 where TILE rows and TILE classes touch a tile that was kept: the filter's tiles are the
    caller's, those of the products are ours."""
    group = cuda.grid(1)
    groups_across = alive.shape[1]
    if group < alive.shape[0] * groups_across:
        down, across = group // groups_across, group % groups_across
        last_row = min(((down + 1) * TILE - 1) // rows_each, kept.shape[0] - 1)
        last_class = min(((across + 1) * TILE - 1) // classes_each, kept.shape[1] - 1)
        first_class = across * TILE // classes_each
        found = 0
        i = down * TILE // rows_each
        while i <= last_row:
            j = first_class
            while j <= last_class:
                found |= kept[i, j]
                j += 1
            i += 1
        alive[down, across] = found


# ============================================================================================================
# Launch
# ============================================================================================================

RUNGS = (*matrix_products.KERNELS, "library_products")
KERNELS = {
    **matrix_products.KERNELS,
    "library_products": library_products.KERNELS,
    "order of the rows": (
        number_rows, put_kept_rows_first, gather_labels, gather_numbers, scatter_numbers, gather_rows, scatter_rows,
        round_rows, add_column_sums,
    ),
    "gradient filter": (find_tiles_that_matter, clear_dropped_tiles, find_live_groups),
}  # fmt: skip

# Rows at a time: enough for the products to be bound by arithmetic, and no more than this many logits.
ROWS, LOGITS = 4096, 1 << 28
TILE_OF_FILTER = (128, 128)


def tile_of(block_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(rows, classes) of a tile of the gradient filter."""
    if isinstance(block_size, tuple | list):
        return int(block_size[0]), int(block_size[1])
    return TILE_OF_FILTER[0], TILE_OF_FILTER[1] if block_size is None else int(block_size)


def rows_at_a_time(columns: int, block_size: int | tuple[int, int] | None, filtered: bool) -> int:
    """As many as `block_size` says; with a filter a multiple of its tiles."""
    rows = tile_of(block_size)[0]
    wanted = min(ROWS, max(256, LOGITS // max(columns, 1)))
    if filtered:
        return rows * max(1, wanted // rows)
    return rows if isinstance(block_size, tuple | list) else wanted


def filter_limit(filter_eps: float | str, dtype: np.dtype) -> float:
    """ "auto" is what rounding would lose in a sum of ordinary size."""
    return float(ml_dtypes.finfo(dtype).eps) / 32 if filter_eps == "auto" else float(filter_eps)


def best_rung(dtype: np.dtype, library: Library | None) -> str:
    """The library's products if the arrays have one that can; else tensor cores where they give what is wanted."""
    if library is not None and library.takes(dtype):
        return "library_products"
    if dtype.kind == "V" and (SIMULATED or cuda.get_current_device().compute_capability >= (8, 0)):
        return "tensor_core_tiles"
    return "shared_memory_tiles"


def products_for(rung: str | None, dtype: np.dtype, library: Library | None, stream: Any) -> Any:
    rung = chosen(rung or best_rung(dtype, library), RUNGS, True)
    if rung == "tensor_core_tiles" and dtype.kind != "V":
        raise ValueError(f"rung 'tensor_core_tiles' multiplies bfloat16, not {dtype}")
    if rung != "library_products":
        return OwnProducts(rung, stream)
    if library is None or not library.takes(dtype):
        raise ValueError(f"rung 'library_products' needs arrays of PyTorch or CuPy whose products take {dtype}")
    return LibraryProducts(library, dtype, stream)


def blocks_for(count: int) -> int:
    return -(-count // THREADS)


class Tiles:
    """Which tiles of a chunk of G the filter has kept."""

    def __init__(self, call: Call, kept: Any, each: tuple[int, int], shape: tuple[int, int]):
        self.call, self.kept, self.each, self.shape = call, kept, each, shape

    @cached_property
    def alive(self) -> Any:
        """A flag for every TILE rows and TILE classes, on the device."""
        groups = tuple(-(-size // TILE) for size in self.shape)
        alive = self.call.new(groups, np.dtype(np.int32))
        configured(find_live_groups, blocks_for(math.prod(groups)), THREADS, self.call.stream)(
            self.kept, *self.each, alive
        )
        return alive

    @cached_property
    def strips(self) -> list[tuple[slice, list[slice]]]:
        """(rows, runs of classes that were kept) for each line of tiles. The host waits for the flags."""
        kept = self.call.to_host(self.kept) != 0
        rows, classes = self.each
        found = []
        for number, line in enumerate(kept):
            edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
            spans = [
                slice(int(first) * classes, min(int(last) * classes, self.shape[1]))
                for first, last in zip(edges[::2], edges[1::2], strict=True)
            ]
            found.append((slice(number * rows, min((number + 1) * rows, self.shape[0])), spans))
        return found


class Rows:
    """The states that predict something, in the order in which they are taken: where they stand, and their labels.

    Of NumPy arrays the ignored rows are left out. Of device arrays the host does not know how many there are: they
    cost their products and count for nothing.
    """

    def __init__(self, call: Call, labels: Any, shift: int, ignore_index: int, columns: int, filtered: bool):
        self.call, self.shift = call, shift
        shape = tuple(labels.shape)
        self.length = shape[-1] if shape else 1
        self.all = math.prod(shape)
        self.shape = (*shape[:-1], self.length - shift) if shift else shape  # of the terms
        self.candidates = self.all // max(self.length, 1) * (self.length - shift)
        if call.on_device:
            self.count = self.candidates
            self.natural = shift == 0 and not filtered
        else:
            states = np.arange(self.all).reshape(shape)[..., : self.length - shift] if shape else np.zeros((), int)
            kept = states[(labels[..., shift:] if shift else labels) != ignore_index].ravel()
            self.count = kept.size
            self.natural = self.count == self.all
        if self.count == 0:
            return
        vector = call.vector(labels)
        if call.on_device:
            self.positions = self._positions(vector, ignore_index, filtered)
        else:
            self.positions = call.send(kept.astype(np.int64))
        self._gather = (vector, ignore_index, columns)

    def _positions(self, labels: Any, ignore_index: int, filtered: bool) -> Any:
        candidates = self._numbered()
        if not filtered:
            return candidates
        positions = self.call.new((self.count,), np.dtype(np.int64))
        configured(put_kept_rows_first, 1, THREADS, self.call.stream)(
            candidates, labels, self.shift, ignore_index, positions
        )
        return positions

    def _numbered(self) -> Any:
        candidates = self.call.new((self.count,), np.dtype(np.int64))
        self.launch(number_rows)(self.length, self.shift, candidates)
        return candidates

    def launch(self, kernel: Any) -> Any:
        return configured(kernel, blocks_for(self.count), THREADS, self.call.stream)

    def labels(self, inverse: Any) -> Any:
        """IGNORED, V if impossible, or the place of the label in the vocabulary's order."""
        labels, ignore_index, columns = self._gather
        found = self.call.new((self.count,), np.dtype(np.int64))
        reordered = inverse is not None
        self.launch(gather_labels)(
            labels, self.positions, self.shift, ignore_index, columns, inverse if reordered else self.positions,
            reordered, found,
        )  # fmt: skip
        return found

    def numbers(self, numbers: Any, dtype: np.dtype) -> Any:
        """A number for each row, from one for each term; or the one for all."""
        if numbers.shape[0] == 1:
            return numbers
        found = self.call.new((self.count,), arithmetic_dtype(dtype))
        self.launch(gather_numbers)(numbers, self.positions, self.length, self.shift, found)
        return found

    def terms(self, terms: Any, dtype: np.dtype) -> Any:
        """The terms in their own order; 0 for the rows that were left out."""
        found = self.call.full((self.candidates,), dtype, 0.0)
        self.launch(scatter_numbers)(terms, self.positions, self.length, self.shift, found)
        return found


class Vocabulary:
    """The classifier and its bias with the classes in the order in which the tiles are laid, and the way back."""

    def __init__(self, call: Call, classifier: Any, bias: Any, dtype: np.dtype, order: Any, hidden: Any):
        self.call, self.dtype = call, dtype
        self.classifier, self.bias, self.order, self.inverse = classifier, bias, None, None
        if order is None:
            return
        found = self._by_mean_logit(hidden) if isinstance(order, str) else np.ascontiguousarray(order, np.int64)
        columns = classifier.shape[0]
        if not np.array_equal(np.sort(found), np.arange(columns)):
            raise ValueError(f"vocabulary_order: expected 'mean_logit' or an order of {columns} classes")
        self.order = call.send(found)
        self.inverse = call.send(np.argsort(found))
        self.classifier = call.new(classifier.shape, dtype)
        configured(gather_rows, columns, THREADS, call.stream)(classifier, self.order, self.classifier)
        if bias is not None:
            self.bias = call.new(bias.shape, dtype)
            configured(gather_numbers, blocks_for(columns), THREADS, call.stream)(bias, self.order, 1, 0, self.bias)

    def _by_mean_logit(self, hidden: Any) -> np.ndarray:
        """The mean of a class's logits is the logit of the mean state, so no logits are needed for it. (Ignored rows
        are in the mean, and a soft-cap is not: it is an order, not a result.)"""
        features = hidden.shape[1]
        sums = self.call.full((features,), np.dtype(np.float64), 0.0)
        configured(add_column_sums, blocks_for(features), THREADS, self.call.stream)(hidden, sums)
        number = arithmetic_dtype(self.dtype)
        mean = (self.call.to_host(sums) / hidden.shape[0]).astype(number)
        logits = self.call.new((1, self.classifier.shape[0]), number)
        mean_state = self.call.send(mean.reshape(1, features))
        OwnProducts("shared_memory_tiles", self.call.stream).logits(mean_state, self.classifier, self.bias, logits)
        return np.argsort(self.call.to_host(logits)[0], kind="stable")

    def rows_back(self, computed: Any) -> Any:
        """The gradient of the classifier, in the caller's order and dtype."""
        if self.order is None and computed.dtype == storage_dtype(self.dtype):
            return computed
        target = self.call.new(computed.shape, self.dtype)
        blocks, stream = computed.shape[0], self.call.stream
        if self.order is None:
            configured(round_rows, blocks, THREADS, stream)(computed, target)
        else:
            configured(scatter_rows, blocks, THREADS, stream)(computed, self.order, target)
        return target

    def numbers_back(self, computed: Any) -> Any:
        """The gradient of the bias, likewise."""
        columns = computed.shape[0]
        target = self.call.new((columns,), self.dtype)
        if self.order is None:
            wide, flat = computed.reshape((1, columns)), target.reshape((1, columns))
            configured(round_rows, 1, THREADS, self.call.stream)(wide, flat)
        else:
            configured(scatter_numbers, blocks_for(columns), THREADS, self.call.stream)(
                computed, self.order, 1, 0, target
            )
        return target


class Problem:
    """One call: its arrays as the kernels see them, and its options."""

    def __init__(
        self, hidden: Any, classifier: Any, labels: Any, bias: Any, cotangent: Any, *, softcap: float | None = None,
        ignore_index: int = -100, label_smoothing: float = 0.0, z_loss_weight: float = 0.0,
        filter_eps: float | str | None = None, block_size: int | tuple[int, int] | None = None, shift: int = 0,
        vocabulary_order: Any = None, out: Any = None, rung: str | None = None, library: Library | None = None,
        stream: Any = None,
    ):  # fmt: skip
        there = [cotangent] if lives_on_device(cotangent) else []
        there += out if isinstance(out, tuple | list) else ()
        self.call = call = Call(hidden, classifier, labels, bias, *there, stream=stream)
        if not call.on_device:
            labels = np.asarray(labels).astype(np.int64, copy=False)
        library = library or library_of(hidden)
        self.hidden, self.dtype, self.hidden_shape = call.rows(hidden)
        classifier, dtype, self.classifier_shape = call.rows(classifier)
        if dtype != self.dtype or (bias is not None and call.dtype(bias) != dtype):
            raise TypeError("hidden, classifier and bias: expected one dtype")
        self.products = products_for(rung, dtype, library, call.stream)
        self.options = {
            "label_smoothing": float(label_smoothing), "softcap": softcap, "z_loss_weight": float(z_loss_weight),
        }  # fmt: skip
        self.columns = self.classifier_shape[0]
        self.limit = None if filter_eps is None else filter_limit(filter_eps, dtype)
        rows_each, classes_each = tile_of(block_size)
        self.tile = rows_each, min(classes_each, max(self.columns, 1))
        self.chunk = rows_at_a_time(self.columns, block_size, self.limit is not None)
        self.rows = Rows(call, labels, int(shift), int(ignore_index), self.columns, self.limit is not None)
        self.number = arithmetic_dtype(dtype)
        self.biased = bias is not None
        shapes = [self.hidden_shape, self.classifier_shape] + ([(self.columns,)] if self.biased else [])
        self.outs = call.check_outs(out, [(shape, dtype) for shape in shapes])
        self.reads = [self.hidden, classifier]
        if self.rows.count:
            if self.hidden_shape[-1] == 0:  # no features: one that is 0, for the products to have something to multiply
                self.hidden = call.full((self.rows.all, 1), dtype, 0.0)
                classifier = call.full((self.columns, 1), dtype, 0.0)
            self.vocabulary = Vocabulary(
                call, classifier, call.vector(bias) if self.biased else None, dtype, vocabulary_order, self.hidden
            )
            self.labels = self.rows.labels(self.vocabulary.inverse)

    def forward(self, gradients: Gradients | None, cotangent: Any) -> Any:
        """The terms in the order of the rows, in the arithmetic's dtype; what belongs to the gradients is added to
        them. The only table with classes in it is one chunk."""
        call, rows, classes = self.call, self.rows, self.vocabulary
        terms = call.new((rows.count,), self.number)
        each = min(self.chunk, rows.count)
        buffer = call.new((each, self.columns), self.number)
        gathered = None if rows.natural else call.new((each, self.hidden.shape[1]), self.dtype)
        g_buffer = None if gradients is None else self.g_buffer(buffer)
        for start in range(0, rows.count, each):
            now = slice(start, min(start + each, rows.count))
            count = now.stop - now.start
            hidden = self.hidden[now] if rows.natural else gathered[:count]
            if not rows.natural:
                configured(gather_rows, count, THREADS, call.stream)(self.hidden, rows.positions[now], hidden)
            logits, labels = buffer[:count], self.labels[now]
            self.products.logits(hidden, classes.classifier, classes.bias, logits)
            if gradients is None:
                self._epilogue(logits, labels, None, terms[now], None)
                continue
            tiles = None if self.limit is None else self._tiles(logits, labels)
            g = logits if g_buffer is buffer else g_buffer[:count]
            self._epilogue(logits, labels, cotangent if cotangent.shape[0] == 1 else cotangent[now], terms[now], g)
            if tiles is not None:
                configured(clear_dropped_tiles, tiles.kept.shape[::-1], THREADS, call.stream)(g, tiles.kept, *self.tile)
            gradients.add(g, hidden, tiles, now)
        return terms

    def g_buffer(self, logits: Any) -> Any:
        """Where G goes: over the logits. But a library multiplies it in the dtype of its factor, and 16 bits cannot be
        written over 32 that others have yet to read."""
        over = isinstance(self.products, OwnProducts) or storage_dtype(self.dtype) == self.number
        return logits if over else self.call.new(logits.shape, self.dtype)

    def _epilogue(self, logits: Any, labels: Any, cotangent: Any, terms: Any, gradient: Any) -> None:
        cross_entropy.launch(
            self.call, logits, labels, None, cotangent, terms, gradient, ignore_index=IGNORED, **self.options
        )

    def _tiles(self, logits: Any, labels: Any) -> Tiles:
        call, count = self.call, logits.shape[0]
        softcap = float(self.options["softcap"] or 0.0)
        m, r = call.new((count, 1), self.number), call.new((count, 1), self.number)
        configured(summarise_rivals, (1, min(count, 65535)), THREADS, call.stream)(
            logits, labels, softcap, m, r, self.columns
        )
        shape = tuple(-(-size // each) for size, each in zip(logits.shape, self.tile, strict=True))
        kept = call.new(shape, np.dtype(np.int32))
        configured(find_tiles_that_matter, shape[::-1], THREADS, call.stream)(
            logits, labels, softcap, self.limit, m, r, *self.tile, kept
        )
        return Tiles(call, kept, self.tile, logits.shape)


class Gradients:
    """dH, dC and db, to which chunks of G are added."""

    def __init__(self, problem: Problem):
        self.problem, self.call = problem, problem.call
        features = problem.hidden_shape[-1]
        self.hidden = self.call.filled(self._place(0, (problem.rows.all, features), problem.dtype), 0.0)
        self.classifier = self.call.filled(self._place(1, (problem.columns, max(features, 1)), problem.number), 0.0)
        self.bias = self.call.full((problem.columns,), np.dtype(np.float64), 0.0) if problem.biased else None
        self.chunk: Any = None  # of dH, on its way to its place

    def _place(self, which: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """The caller's memory, if that is where such numbers go in this order."""
        problem, out = self.problem, self.problem.outs[which]
        ordered = which == 0 or not problem.rows.count or problem.vocabulary.order is None
        if out is None or not ordered or math.prod(shape) != math.prod(out.shape) or dtype != problem.dtype:
            return self.call.new(shape, dtype)
        place = self.call.output(out, tuple(out.shape), dtype, reads=problem.reads, in_place=False)
        return place.reshape(shape)

    def add(self, g: Any, hidden: Any, tiles: Tiles | None, now: slice) -> None:
        problem, stream = self.problem, self.call.stream
        self._add_to_hidden(g, tiles, now)
        problem.products.classifier(g, hidden, tiles, self.classifier)
        if self.bias is not None:
            configured(add_column_sums, blocks_for(problem.columns), THREADS, stream)(g, self.bias)

    def _add_to_hidden(self, g: Any, tiles: Tiles | None, now: slice) -> None:
        """Straight to its place, where that is in order and holds numbers of the arithmetic."""
        problem, stream, count = self.problem, self.call.stream, g.shape[0]
        if not self.hidden.size:
            return
        classifier = problem.vocabulary.classifier
        direct = problem.rows.natural and self.hidden.dtype == problem.number
        if not direct and self.chunk is None:  # the first chunk is the largest
            self.chunk = self.call.new((count, self.hidden.shape[1]), problem.number)
        result = self.hidden[now] if direct else self.chunk[:count]
        problem.products.hidden(g, classifier, tiles, result)
        if not direct:
            configured(scatter_rows, count, THREADS, stream)(result, problem.rows.positions[now], self.hidden)

    def results(self) -> tuple[Any, ...]:
        problem, call = self.problem, self.call
        columns, features = problem.classifier_shape
        found = [(self.hidden, problem.hidden_shape)]
        if problem.rows.count and problem.columns:
            classifier = problem.vocabulary.rows_back(self.classifier)
            bias = None if self.bias is None else problem.vocabulary.numbers_back(self.bias)
        else:  # nothing was added
            classifier = call.full((columns, features), problem.dtype, 0.0)
            bias = call.full((columns,), problem.dtype, 0.0)
        if features == 0:
            classifier = call.new((columns, 0), problem.dtype)
        found.append((classifier, (columns, features)))
        if problem.biased:
            found.append((bias, (columns,)))
        ready = zip(found, problem.outs, strict=True)
        return tuple(call.result(array, problem.dtype, shape, out=out) for (array, shape), out in ready)


def _run(arguments, bias, reduction, divisor, cotangent, want_gradient, options):
    """(value, gradients); gradients None if not wanted."""
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction must be none, sum or mean, got {reduction!r}")
    problem = Problem(*arguments, bias, cotangent, **options)
    call, rows, dtype = problem.call, problem.rows, problem.dtype
    gradients = Gradients(problem) if want_gradient else None
    if rows.count == 0:
        if reduction == "none":
            terms = call.result(call.full((rows.candidates,), dtype, 0.0), dtype, rows.shape)
        else:
            terms = of_nothing(call, reduction, dtype)
        return terms, gradients.results() if gradients else None
    whole = scale = None
    if reduction != "none":
        whole = Reduction(call, problem.labels, problem.columns, None, IGNORED, dtype, reduction, divisor)
    if gradients:
        numbers = call.numbers(cotangent, dtype)
        scale = rows.numbers(numbers, dtype) if whole is None else whole.scale(numbers)
    terms = problem.forward(gradients, scale)
    if whole is None:
        value = call.result(rows.terms(terms, dtype), dtype, rows.shape)
    else:
        value = call.result(whole.result(terms), dtype, ())
    return value, gradients.results() if gradients else None


def value(hidden: Any, classifier: Any, labels: Any, *, bias: Any = None, **options: Any) -> Any:
    """The terms, in the shape of labels[..., shift:].

    Options: softcap, ignore_index, label_smoothing, z_loss_weight, filter_eps, block_size, shift; and
    vocabulary_order, rung, library, stream.
    """
    return _run((hidden, classifier, labels), bias, "none", None, None, False, options)[0]


def vjp(
    hidden: Any, classifier: Any, labels: Any, *, cotangent: Any, bias: Any = None, **options: Any
) -> tuple[Any, ...]:
    """d (sum of cotangent * terms) by hidden, classifier and, if given, bias. `out` is a tuple of arrays for them."""
    return _run((hidden, classifier, labels), bias, "none", None, cotangent, True, options)[1]


def value_and_vjp(
    hidden: Any, classifier: Any, labels: Any, *, cotangent: Any, bias: Any = None, **options: Any
) -> tuple[Any, tuple[Any, ...]]:
    """Both, from one sweep: three products."""
    return _run((hidden, classifier, labels), bias, "none", None, cotangent, True, options)


def reduced_value(
    hidden: Any,
    classifier: Any,
    labels: Any,
    *,
    reduction: str = "mean",
    divisor: float | None = None,
    bias: Any = None,
    **options: Any,
) -> Any:
    """The reduced loss; of device arrays an array of no dimension on the device."""
    return _run((hidden, classifier, labels), bias, reduction, divisor, None, False, options)[0]


def reduced_value_and_vjp(
    hidden: Any,
    classifier: Any,
    labels: Any,
    *,
    reduction: str = "mean",
    divisor: float | None = None,
    cotangent: Any = 1.0,
    bias: Any = None,
    **options: Any,
) -> tuple[Any, tuple[Any, ...]]:
    """The reduced loss and its gradients."""
    return _run((hidden, classifier, labels), bias, reduction, divisor, cotangent, True, options)
