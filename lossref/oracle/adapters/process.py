r"""Any program, in any language: it reads a case from standard input and writes its answer to standard output.

One JSON object to a line. A request::

    {"loss": "cross_entropy", "what": "value", "dtype": "float64",
     "arguments": {"logits": {"shape": [1, 2], "data": ["0x1.0p+1", "0x0.0p+0"]},
                   "labels": {"shape": [1], "data": [0]}},
     "options": {"reduction": "mean"}, "cotangent": null}

Real numbers are hexadecimal floats, written as C's ``%a`` and read by its ``strtod``: no digit is lost, and infinities
are ``inf`` and ``-inf``. Integers are integers. For ``"what": "grad"`` the cotangent is an array like the others. An
answer is ``{"shape": [2], "data": ["0x1.8p+0", …]}``, for several gradients ``{"gradients": [...]}``, or
``{"error": "why not"}``. The program answers until its standard input ends.
"""

from __future__ import annotations

import json
import shlex
import subprocess

import numpy as np

from ..candidates import Accepted, Candidate


class ProgramError(RuntimeError):
    """The program refused a case, or ended."""


def adapt(loss, value, grad, dtype, options: tuple[str, ...] = (), gradient: bool = True) -> Candidate:
    """value: the command, as a list or as one line. options: the options that the program takes."""
    command = value if value is not None else grad
    command = shlex.split(command) if isinstance(command, str) else list(command)
    return ProcessCandidate(loss, command, dtype, options, gradient)


class _Named(Accepted):
    """A program takes the options that it is said to take."""

    def __init__(self, names):
        self.names, self.positional, self.takes_any, self.takes_any_position = tuple(names), [], False, True
        self.keyword_only = set()


class ProcessCandidate(Candidate):
    framework = "process"
    tries = 80

    def __init__(self, loss, command, dtype, options, gradient):
        super().__init__(loss, None, None)
        self.dtype = str(np.dtype(dtype))
        self.accepts_value = self.accepts_grad = _Named(options)
        self.has_value, self.has_grad = True, gradient and loss.differentiable
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def takes_cotangent(self) -> bool:
        return True

    def run_value(self, positional, keywords):
        return self._ask("value", positional, keywords, None)

    def run_grad(self, positional, keywords, cotangent):
        return self._ask("grad", positional, keywords, np.asarray(cotangent))

    def _ask(self, what, positional, keywords, cotangent):
        arrays = {**positional, **keywords}
        request = {
            "loss": self.loss.name, "what": what, "dtype": self.dtype,
            "arguments": {n: written(v) for n, v in arrays.items() if isinstance(v, np.ndarray)},
            "options": {n: v for n, v in arrays.items() if not isinstance(v, np.ndarray)},
            "cotangent": None if cotangent is None else written(cotangent),
        }  # fmt: skip
        try:
            self.program.stdin.write(json.dumps(request) + "\n")
            self.program.stdin.flush()
            line = self.program.stdout.readline()
        except OSError as problem:
            raise ProgramError(f"the program does not read: {problem}") from None
        if not line:
            raise ProgramError(f"the program ended with status {self.program.poll()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ProgramError(answer["error"])
        if "gradients" in answer:
            return tuple(map(read, answer["gradients"]))
        return read(answer)

    def close(self) -> None:
        self.program.stdin.close()
        self.program.stdout.close()
        try:
            self.program.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()


def written(array: np.ndarray) -> dict:
    """An array as JSON, its real numbers as hexadecimal floats."""
    flat = np.asarray(array).ravel()
    data = flat.tolist() if flat.dtype.kind in "iub" else [float(x).hex() for x in flat.astype(np.float64)]
    return {"shape": list(np.shape(array)), "data": data}


def read(answer: dict) -> np.ndarray:
    data = [float.fromhex(x) if isinstance(x, str) else float(x) for x in answer["data"]]
    return np.array(data, np.float64).reshape(answer["shape"])
