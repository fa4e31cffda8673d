"""KaTeX's server, given time on a busy machine.

Every worker of the build starts a server and connects as soon as its socket exists. The socket exists a moment before
the server listens on it: whoever connects in between is refused, and with it the build.
"""

import time

from sphinxcontrib import katex

TRIES = 5


def install() -> None:
    start = katex.KaTeXServer.start

    def start_patiently():
        for last in reversed(range(TRIES)):
            try:
                return start()
            except ConnectionRefusedError:
                if not last:
                    raise
                time.sleep(1)

    katex.STARTUP_TIMEOUT = 60.0
    katex.KaTeXServer.start = start_patiently
