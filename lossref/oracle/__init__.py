"""The oracle: is somebody's loss right, and how accurate is it?

>>> import lossref as lr
>>> report = lr.oracle.check("cross_entropy", value=lr.cross_entropy, grad=lr.cross_entropy.grad, quick=True)
>>> report.verdict
'accurate'
"""

from importlib import import_module as _import_module

_WHERE = {
    "check": "verdict",
    "Report": "report",
    "Finding": "report",
    "Rejected": "report",
    "export": "vectors",
    "VERSION": "cases",
}

__all__ = ["Finding", "Rejected", "Report", "check", "export"]


def __getattr__(name: str):
    """Nothing is loaded before it is used: the pytest plugin lives in this package."""
    if name not in _WHERE:
        raise AttributeError(f"lossref.oracle has no attribute {name!r}")
    module = _import_module(f"{__name__}.{_WHERE[name]}")
    for public, where in _WHERE.items():
        if where == _WHERE[name]:
            globals()[public] = getattr(module, public)
    return globals()[name]
