"""Connectionist temporal classification: cross-entropy against a soft target that the model itself computes."""

import numpy as np

from lossref.core import Flag, Integer, Labels, Lengths, Paper, Real, floats, label_mask, like, loss, total, where
from lossref.primitives import softmax_row


@loss(
    of="logits",
    paper=Paper("Connectionist Temporal Classification", 2006, "ICML"),
    symmetries={"shift": (), "row permutation": ()},
)
def ctc(
    logits: Real("N T C", masked=True),
    targets: Labels("N S", below="C", lengths="target_lengths", excluding="blank"),
    input_lengths: Lengths("N", up_to="T") = None,
    target_lengths: Lengths("N", up_to="S") = None,
    *,
    blank: Integer = 0,
    zero_infinity: Flag = False,
):
    r"""CTC: minus the log-probability that frames, collapsed, read as the target.

    .. math:: L = -\log \sum_{\pi \,:\, \mathrm{collapse}(\pi) = y} \; \prod_t p_{t,\pi_t}

    Collapsing merges repeats and drops blanks. The gradient of a frame is its softmax minus the probability, given
    the target, that the frame reads each class. "mean" divides each sample by its target length first. A target that
    cannot be aligned has the value inf and the gradient nan for that sample only; ``zero_infinity=True`` makes both 0.
    A gradient entry is a difference of two probabilities, which may agree in all their digits: it is accurate
    relative to them, and to itself where path and target are sure.

    Parameters
    ----------
    logits
        Scores of the classes for every frame.
    targets
        The labels to be read, padded with anything.
    input_lengths
        How many frames count, all by default.
    target_lengths
        How many labels count, all by default.
    blank
        The class that separates labels.
    zero_infinity
        Whether a sample that cannot be aligned counts as 0.

    Examples
    --------
    >>> logits = np.log(np.array([[[0.6, 0.4], [0.3, 0.7]]]))
    >>> lr.ctc(logits, np.array([[1]]))
    np.float64(0.198450...)
    >>> -np.log(0.4 * 0.7 + 0.6 * 0.7 + 0.4 * 0.3)  # the literal formula: "11", "-1", "1-"
    np.float64(0.198450...)
    """
    lattice = _Lattice(logits, targets, input_lengths, target_lengths, blank)
    log_probability = lattice.log_probability(lattice.forward()[-1])
    failure = lattice.start(lattice.failure(softmax_row(logits).p)[0])
    likely = floats(failure) < 0.5
    value = where(likely, -np.log1p(-where(likely, failure, 0.0)), -log_probability)
    return where(value == np.inf, 0.0, value) if zero_infinity else value


@ctc.gradient
def _(logits, targets, input_lengths, target_lengths, blank, zero_infinity):
    lattice = _Lattice(logits, targets, input_lengths, target_lengths, blank)
    p, alphas = softmax_row(logits).p, lattice.forward()
    log_probability, failures = lattice.log_probability(alphas[-1]), lattice.failure(p)
    likely = lattice.start(failures[0]) < 0.5
    unlikely_g = p - lattice.occupancy(alphas, p.shape)
    likely_g = p * lattice.harm(alphas, failures, p.shape) / np.exp(log_probability)[:, None, None]
    g = where(likely[:, None, None], likely_g, unlikely_g)
    # A frame's gradient sums to 0. Its largest entry comes from the others: on its own it would cancel.
    largest = label_mask(np.argmax(p, axis=2), logits.shape[2])
    others = where(largest, 0.0, g)
    g = where(largest, -total(others, keepdims=True), others)
    g = where((np.arange(logits.shape[1]) < lattice.frames[:, None])[..., None], g, 0.0)
    return where((log_probability == -np.inf)[:, None, None], 0.0 if zero_infinity else np.nan, g)


@ctc.kinks
def _(logits, targets, input_lengths, target_lengths, blank):
    lattice = _Lattice(logits, targets, input_lengths, target_lengths, blank)
    unreadable = lattice.log_probability(lattice.forward()[-1]) == -np.inf
    return np.broadcast_to(unreadable[:, None, None], logits.shape)


@ctc.parts
def _(logits, targets, input_lengths, target_lengths, blank):
    lattice = _Lattice(logits, targets, input_lengths, target_lengths, blank)
    row, log_probability = softmax_row(logits), lattice.log_probability(lattice.forward()[-1])
    p = where(label_mask(np.argmax(row.p, axis=2), logits.shape[2]), row.not_p, row.p)
    return p * (1 - where(log_probability == -np.inf, 0.0, log_probability)[:, None, None])


@ctc.mean_factor
def _(targets, target_lengths):
    lengths = np.full(len(targets), targets.shape[1]) if target_lengths is None else target_lengths
    return 1 / np.maximum(lengths, 1)


@ctc.obvious
def _(logits, targets):
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    values = []
    for probability, target in zip(p, targets, strict=True):
        paths = np.stack(np.meshgrid(*[np.arange(p.shape[2])] * p.shape[1], indexing="ij"), -1).reshape(-1, p.shape[1])
        reads = [
            [c for c, before in zip(path, [0, *path[:-1]], strict=True) if c != before and c != 0] for path in paths
        ]
        right = [path for path, read in zip(paths, reads, strict=True) if read == list(target)]
        values.append(-np.log(sum(np.prod(probability[np.arange(p.shape[1]), path]) for path in right)))
    return np.array(values)


@ctc.requires("blank", "a class in [0, C)")
def _(blank, logits):
    return 0 <= blank < logits.shape[2]


@ctc.arrange
def _(logits, targets, input_lengths, target_lengths, **options):
    """Targets short enough to be aligned, whatever repeats they hold."""
    longest = (min([logits.shape[1], *(() if input_lengths is None else input_lengths)]) + 1) // 2
    lengths = None if target_lengths is None else np.minimum(target_lengths, longest)
    return {"targets": targets[:, :longest], "target_lengths": lengths}


@ctc.hard
def _(rng, dtype):
    path = np.array([[1, 1, 0, 1, 2], [2, 0, 2, 0, 0]])
    targets = {"targets": np.array([[1, 1, 2], [2, 2, 0]]), "target_lengths": np.array([3, 2])}
    for lead in (6.0, 20.0, 60.0):
        logits = lead * label_mask(path, 3) + np.ldexp(rng.integers(-64, 64, (2, 5, 3)), -6)
        yield f"every frame leads by {lead:g} along the target's path", {"logits": logits, **targets}
    yield "a target that cannot be aligned", {"logits": logits[:, :2], **targets}


class _Lattice:
    """The states of an alignment (blank, y1, blank, y2, …, blank) over the frames.

    Two columns precede the states: one that is never reached, and the start, which emits nothing. A path of classes
    has one state at every frame, or has failed: so probabilities of success and of failure both add up from products,
    and the small one of the two keeps its digits.
    """

    def __init__(self, logits, targets, input_lengths, target_lengths, blank):
        batch, num_frames, self.num_classes = logits.shape
        self.frames = np.full(batch, num_frames) if input_lengths is None else input_lengths
        lengths = np.full(batch, targets.shape[1]) if target_lengths is None else target_lengths
        targets = np.where(np.arange(targets.shape[1]) < lengths[:, None], targets, blank)  # padding may hold anything
        self.symbols = np.full((batch, 2 * targets.shape[1] + 3), blank)
        self.symbols[:, 3::2] = targets
        column = np.arange(self.symbols.shape[1]) - 2 * lengths[:, None]
        self.end = (column == 1) | (column == 2)  # the last label, or the blank behind it
        self.emits = (column <= 2) & (np.arange(self.symbols.shape[1]) >= 2)
        self.skip = np.zeros(self.symbols.shape, bool)  # may be entered from two states before
        self.skip[:, 3:4] = True  # the first label, from the start
        self.skip[:, 5::2] = targets[:, 1:] != targets[:, :-1]
        read = np.broadcast_to(self.symbols[:, None], (batch, num_frames, self.symbols.shape[1]))
        self.log_p = where(self.emits[:, None], np.take_along_axis(softmax_row(logits).log_p, read, axis=2), -np.inf)

    def never(self, columns):
        return like(np.full((len(self.symbols), columns), -np.inf), self.log_p)

    def start(self, states):
        return states[:, 1]

    def forward(self):
        """After t frames, for t = 0 … T: the log-probability of all beginnings that are in each state."""
        start = np.broadcast_to(np.arange(self.symbols.shape[1]) == 1, self.symbols.shape)
        alphas = [like(np.where(start, 0.0, -np.inf), self.log_p)]
        for t in range(self.log_p.shape[1]):
            stay = alphas[-1]
            step = np.concatenate([self.never(1), stay[:, :-1]], axis=1)
            skip = where(self.skip, np.concatenate([self.never(2), stay[:, :-2]], axis=1), -np.inf)
            entered = self.log_p[:, t] + _log_sum(stay, step, skip)
            alphas.append(where((t < self.frames)[:, None], entered, stay))
        return alphas

    def backward(self):
        """After t frames: the log-probability of all completions."""
        end = like(np.where(self.end, 0.0, -np.inf), self.log_p)
        betas = [end]
        for t in reversed(range(self.log_p.shape[1])):
            stay = self.log_p[:, t] + betas[-1]
            step = np.concatenate([stay[:, 1:], self.never(1)], axis=1)
            skip = np.concatenate([where(self.skip, stay, -np.inf)[:, 2:], self.never(2)], axis=1)
            betas.append(where((t < self.frames)[:, None], _log_sum(stay, step, skip), end))
        return betas[::-1]

    def log_probability(self, alpha):
        return softmax_row(where(self.end, alpha, -np.inf)).lse

    def occupancy(self, alphas, shape):
        """The probability, given the target, that a frame reads each class.

        At every frame the states add up to the target's probability, so a softmax over them is all it takes: only
        differences of the long sums alpha + beta matter, and the rounding that the states share does not.
        """
        occupancy = np.zeros(shape, self.log_p.dtype)
        rows = np.arange(shape[0])[:, None]
        for t, beta in enumerate(self.backward()[1:]):
            np.add.at(occupancy, (rows, t, self.symbols), softmax_row(alphas[t + 1] + beta).p)
        return occupancy

    def failure(self, p):
        """After t frames, from each state: the probability that the rest does not end as the target."""
        end = like(np.where(self.end, 0.0, 1.0), p)
        failures = [end]
        for t in reversed(range(p.shape[1])):
            on = total(p[:, t, None] * self.reading(failures[-1]))
            failures.append(where((t < self.frames)[:, None], on, end))
        return failures[::-1]

    def reading(self, failure):
        """The probability of failure of the state that each class leads to from each state: (N, states, C)."""
        table = like(np.ones((*failure.shape, self.num_classes)), failure)
        for by in range(3):
            target = np.arange(failure.shape[1] - by) + by
            leads = self.emits[:, target] & (self.skip[:, target] if by == 2 else True)
            row, state = np.nonzero(leads)
            table[row, state, self.symbols[row, state + by]] = failure[row, state + by]
        return table

    def harm(self, alphas, failures, shape):
        """How much likelier failure gets when a frame reads a class: (N, T, C)."""
        harm = np.zeros(shape, self.log_p.dtype)
        for t in range(shape[1]):
            worse = self.reading(failures[t + 1]) - failures[t][..., None]
            harm[:, t] = total(np.exp(alphas[t])[..., None] * worse, axis=1)
        return harm


def _log_sum(*parts):
    """log Σ exp over the parts; -inf where all of them are."""
    return softmax_row(np.stack(parts, axis=-1)).lse
