"""Record PyTorch's cross-entropy of a sure right answer: python tutorials/recorded/pytorch_cross_entropy.py

For machines without PyTorch. The row is [lead, 0]: two classes, the first is right; its logit's gradient.
"""

import json
from pathlib import Path

import torch

LEADS = {
    "float16": [1, 2, 4, 6, 7, 8, 10, 12, 14, 16, 17, 18],
    "bfloat16": [1, 2, 4, 5, 6, 8, 16, 32, 64, 80, 92, 94],
    "float32": [1, 2, 4, 8, 12, 14, 16, 17, 18, 20, 30, 40, 60, 80, 100, 104],
    "float64": [1, 2, 4, 8, 16, 24, 30, 34, 36, 37, 38, 40, 60, 100, 200, 400, 600, 740, 746],
}


def measure(lead, dtype):
    logits = torch.tensor([[lead, 0.0]], dtype=dtype, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0]))
    loss.backward()
    return loss.item(), logits.grad[0, 0].item()


def main():
    dtypes = {}
    for name, leads in LEADS.items():
        losses, gradients = zip(*[measure(lead, getattr(torch, name)) for lead in leads], strict=True)
        dtypes[name] = {"lead": leads, "loss": losses, "gradient": gradients}
    record = {
        "made_by": "python tutorials/recorded/pytorch_cross_entropy.py",
        "torch": torch.__version__,
        "dtypes": dtypes,
    }
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(record, indent=1) + "\n")
    for name, rows in dtypes.items():
        first = next((lead for lead, g in zip(rows["lead"], rows["gradient"], strict=True) if g == 0), None)
        print(f"{name}: gradient 0 first seen at a lead of {first}")


if __name__ == "__main__":
    main()
