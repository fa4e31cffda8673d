"""The functions that loss files are written with: bare, because core has validated what reaches a loss.

The same functions with validation, gradients and all paths are ``lossref.softmax``, ``lossref.softplus`` and so on.
This package is the only place where exp and log meet.
"""

from . import logistic as _logistic
from .logistic import sech_squared, soft_cap
from .softmax import SoftmaxRow, softmax_row

softplus = _logistic.softplus.definition
sigmoid = _logistic.sigmoid.definition
log_sigmoid = _logistic.log_sigmoid.definition
log1mexp = _logistic.log1mexp.definition
log_diff_exp = _logistic.log_diff_exp.definition

__all__ = [
    "SoftmaxRow",
    "log1mexp",
    "log_diff_exp",
    "log_sigmoid",
    "sech_squared",
    "sigmoid",
    "soft_cap",
    "softmax_row",
    "softplus",
]
