"""A computation and a size: what it must move at least, what it computes, and its inputs."""

import math
from dataclasses import dataclass

import numpy as np

# Floating-point operations of one e^x: the reduction to a small argument (4), a polynomial of degree 6 (12), the
# scaling (2). They place a computation on the roofline; every contender is charged the same, whatever it does.
EXPONENTIAL = 18

KERNELS = (
    "logsumexp",
    "softmax",
    "log_softmax",
    "cross_entropy",
    "linear_cross_entropy",
    "top_k_softmax",
    "softmax_attention",
)
LIMITS = ("copy", "read", "gemm")
WITH_GRADIENT = ("cross_entropy", "linear_cross_entropy", "softmax_attention")
OF_THREE_SIZES = ("linear_cross_entropy", "softmax_attention", "gemm")
EXPERTS = 8  # that a top-k gate chooses

DEFAULT_SIZES: dict[str, list[tuple[int, ...]]] = {
    "logsumexp": [(4096, 1000), (1, 10**7), (1, 10**8)],
    "softmax": [(4096, 1000), (1, 10**7), (1, 10**8)],
    "log_softmax": [(4096, 1000), (1, 10**7)],
    "cross_entropy": [(4096, 1000), (4096, 32000), (1024, 128000), (512, 256000)],
    "linear_cross_entropy": [(2048, 512, 32000), (1024, 512, 128000)],
    "top_k_softmax": [(65536, 64), (8192, 1024)],
    "softmax_attention": [(2048, 64, 2048), (1024, 128, 16384)],
}
QUICK_SIZES: dict[str, list[tuple[int, ...]]] = {
    "logsumexp": [(64, 1000), (1, 10**6)],
    "softmax": [(64, 1000), (1, 10**6)],
    "log_softmax": [(1, 10**6)],
    "cross_entropy": [(64, 8000)],
    "linear_cross_entropy": [(128, 64, 4000)],
    "top_k_softmax": [(4096, 64)],
    "softmax_attention": [(256, 32, 1024)],
}
LIMIT_SIZES: dict[str, tuple[int, ...]] = {"copy": (1, 10**8), "read": (1, 10**8), "gemm": (2048, 2048, 2048)}
QUICK_LIMIT_SIZES: dict[str, tuple[int, ...]] = {"copy": (1, 10**7), "read": (1, 10**7), "gemm": (512, 512, 512)}


@dataclass(frozen=True)
class Problem:
    """kernel: a function of lossref, or "copy", "read", "gemm". Shapes are (rows, classes); of linear
    cross-entropy (rows, features, classes); of attention (queries, features, keys); of gemm (m, k, n)."""

    kernel: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def computes(self) -> str:
        return "value and gradient" if self.kernel in WITH_GRADIENT else "value"

    @property
    def options(self) -> dict:
        """What a call needs besides arrays."""
        return {"k": min(EXPERTS, self.shape[1])} if self.kernel == "top_k_softmax" else {}

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def least_bytes(self) -> int:
        """Each large input read once, each large output written once."""
        if self.kernel in ("logsumexp", "read"):
            return self.elements * self.itemsize
        if self.kernel == "linear_cross_entropy":
            rows, features, classes = self.shape
            return 2 * (rows + classes) * features * self.itemsize
        if self.kernel == "softmax_attention":
            queries, features, keys = self.shape
            return (queries + 2 * keys) * features * self.itemsize + self.output_bytes
        if self.kernel == "gemm":
            m, k, n = self.shape
            return (m * k + k * n + m * n) * self.itemsize
        return 2 * self.elements * self.itemsize

    @property
    def output_bytes(self) -> int:
        """What the caller gets: the result, or the gradients."""
        if self.kernel in ("logsumexp", "read"):
            return self.shape[0] * self.itemsize
        if self.kernel == "linear_cross_entropy":
            return self.least_bytes // 2
        if self.kernel == "softmax_attention":
            queries, features, keys = self.shape
            return 2 * (queries + keys) * features * self.itemsize
        return self.elements * self.itemsize

    @property
    def flops(self) -> int:
        """Floating-point operations; an e^x counts as `EXPONENTIAL`."""
        if self.kernel == "gemm":
            return 2 * self.elements
        if self.kernel == "linear_cross_entropy":
            rows, _, classes = self.shape
            return 3 * 2 * self.elements + rows * classes * (EXPONENTIAL + 4)
        if self.kernel == "softmax_attention":  # two products forward, five backward
            queries, _, keys = self.shape
            return 7 * 2 * self.elements + queries * keys * (2 * EXPONENTIAL + 6)
        each = {"copy": 0, "read": 1, "logsumexp": EXPONENTIAL + 1}.get(self.kernel, EXPONENTIAL + 2)
        return each * self.elements

    @property
    def limit(self) -> str:
        """Which of the machine's abilities bounds it."""
        others = {"logsumexp": "read", "read": "read", "gemm": "gemm"}
        products = dict.fromkeys(("linear_cross_entropy", "softmax_attention"), "products")
        return (others | products).get(self.kernel, "copy")

    @property
    def shape_text(self) -> str:
        return "×".join(f"10^{round(math.log10(n))}" if n >= 10**6 and 10 ** round(math.log10(n)) == n else str(n)
                        for n in self.shape)  # fmt: skip

    def inputs(self, seed: int = 0) -> tuple:
        rng = np.random.default_rng(seed)
        if self.kernel == "linear_cross_entropy":
            rows, features, classes = self.shape
            hidden, classifier = self._normal(rng, (rows, features)), self._normal(rng, (classes, features))
            classifier *= 4 / math.sqrt(features)  # logits of ordinary size
            return hidden, classifier, rng.integers(0, classes, rows)
        if self.kernel == "softmax_attention":
            queries, features, keys = self.shape
            return tuple(self._normal(rng, (rows, features)) for rows in (queries, keys, keys))
        if self.kernel == "gemm":
            m, k, n = self.shape
            return self._normal(rng, (m, k)), self._normal(rng, (k, n))
        x = self._normal(rng, self.shape)
        x *= 4
        return (x, rng.integers(0, self.shape[1], self.shape[0])) if self.kernel == "cross_entropy" else (x,)

    def _normal(self, rng, shape):
        array = aligned(shape, self.dtype)
        rng.standard_normal(dtype=self.dtype, out=array)
        return array


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Memory that starts at a multiple of 64 bytes, as every library would allocate it for itself."""
    dtype = np.dtype(dtype)
    raw = np.empty(math.prod(shape) * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : raw.size - 64 + start].view(dtype).reshape(shape)


def parse_size(kernel: str, text: str) -> tuple[int, ...]:
    """ "4096x32000" → (4096, 32000); exponents are allowed: 1x1e8."""
    try:
        numbers = [float(part) for part in text.lower().replace("×", "x").split("x")]
    except ValueError:
        numbers = []
    expected = 3 if kernel in OF_THREE_SIZES else 2
    if len(numbers) != expected or not all(n >= 1 and n == int(n) for n in numbers):
        form = "ROWSxFEATURESxCLASSES" if expected == 3 else "ROWSxCLASSES"
        raise ValueError(f"size of {kernel}: expected {form}, got {text!r}")
    return tuple(int(n) for n in numbers)
