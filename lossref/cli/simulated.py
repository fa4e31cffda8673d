"""CUDA checks without a GPU: in a child process whose Numba simulates the device.

Numba decides between driver and simulator once, when it is imported; so this process stays as it is and the checks
run in another one, ``python -m lossref.cli.simulated``. It reads a request (one line of JSON) from its standard input
and writes one line of JSON for each result, as soon as it has it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from tempfile import TemporaryFile

SIMULATOR = "NUMBA_ENABLE_CUDASIM"
MARK = "lossref: "


def possible() -> bool:
    """Whether the simulator can stand in for a GPU here."""
    return find_spec("numba_cuda") is not None and find_spec("numba") is not None


class Child:
    """A process that answers a request while this one does other things."""

    def __init__(self, request: dict):
        # In files, because a pipe that nobody reads yet would stop the child when it is full.
        self.question, self.words = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self.question.write(json.dumps(request))
        self.question.seek(0)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lossref.cli.simulated"],
            stdin=self.question,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
            env={**os.environ, SIMULATOR: "1"},
        )

    def answers(self) -> Iterator[dict]:
        """The answers as they come; a RuntimeError with the child's last words if it does not end well."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):  # a kernel that prints must not be taken for an answer
                yield json.loads(line.removeprefix(MARK))
        if self.process.wait() != 0:
            self.words.seek(0)
            said = self.words.read().strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"the simulator's process ended with status {self.process.returncode}: {said[-1]}")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.question, self.words):
            if stream is not None:
                stream.close()


def run_tiny_computation() -> dict:
    """One softmax in the simulator, for ``lossref doctor``."""
    with Child({"what": "tiny"}) as child:
        (answer,) = child.answers()
    return answer


def _answer(request: dict) -> Iterator[dict]:
    if request["what"] == "tiny":
        from .examination import tiny_computation

        yield tiny_computation("cuda")
        return
    from lossref.exact import verification

    from .checking import outcome

    for check in verification.plan(request["losses"], ["cuda"], request["dtypes"]):
        yield asdict(outcome(check, request["seed"]))


if __name__ == "__main__":
    for _found in _answer(json.loads(sys.stdin.read())):
        print(MARK + json.dumps(_found), flush=True)
