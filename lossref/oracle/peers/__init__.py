"""Other libraries' implementations of the same losses, asked what they mean and measured how accurate they are.

One entry per (library, function) says how to call it there; entries.py holds them all. A library is imported when its
functions are called, never before.
"""

from .accuracy import KINDS, Measurement, measure
from .calling import NotTaken, Peer, comparable, ours, peers_of
from .libraries import LIBRARIES, Library
from .semantics import Answer, interview

__all__ = [
    "KINDS",
    "LIBRARIES",
    "Answer",
    "Library",
    "Measurement",
    "NotTaken",
    "Peer",
    "comparable",
    "interview",
    "measure",
    "ours",
    "peers_of",
]
