"""``python -m lossref.cli``."""

from . import app

app(prog_name="lossref")
