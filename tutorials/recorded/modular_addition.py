"""Record longer trainings on modular addition: python tutorials/recorded/modular_addition.py

It executes the notebook's own cells, those tagged "definitions": what is recorded is what the notebook shows, for
more steps. Ten minutes on one core.
"""

import json
import platform
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

NOTEBOOK = Path(__file__).resolve().parents[1] / "collapse_or_arithmetic.ipynb"
STEPS = 5000
METHODS = ["textbook", "log1p", "log of the loss", "StableMax", "⊥Grad"]
#       method, dtype, learning rate, beta2
RUNS = [(method, "float32", rate, 0.9) for rate in (0.01, 0.002) for method in METHODS]
RUNS += [("log1p", "float64", 0.002, 0.9)]
RUNS += [(method, "float32", 0.002, 0.99) for method in ("textbook", "log1p")]


def record(run):
    method, dtype, rate, beta2 = run
    names = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if "definitions" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), names)
    history = names["train"](method, STEPS, rate, beta2, dtype=np.dtype(dtype).type, every=STEPS // 80)
    rounded = {key: [float(f"{value:.4g}") for value in values] for key, values in history.items()}
    rounded["step"] = [int(step) for step in history["step"]]
    print(f"{method:16} {dtype} {rate:5} {beta2:4}  tested {rounded['test'][-1]:.1%}", flush=True)
    return {"method": method, "dtype": dtype, "rate": rate, "beta2": beta2, **rounded}


def main():
    with threadpool_limits(1):
        runs = [record(run) for run in RUNS]
    record_of_all = {
        "made_by": "python tutorials/recorded/modular_addition.py",
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    lines = [json.dumps(run, ensure_ascii=False) for run in runs]
    text = json.dumps(record_of_all)[:-1] + ',\n "runs": [\n' + ",\n".join(lines) + "\n]}\n"
    Path(__file__).with_suffix(".json").write_text(text)


if __name__ == "__main__":
    main()
