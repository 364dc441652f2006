"""Run a module of this interpreter until standard input closes: no server outlives the tests that started it.

``python -P tethered.py MODULE ARGUMENT…`` runs MODULE the way ``python -m`` does, or a file whose name ends in ``.py``.
The tests hold the other end of standard input, and the operating system closes it however they end.
"""

import os
import runpy
import sys
import threading


def end_with_input() -> None:
    while os.read(0, 1024):  # sys.stdin holds a lock while it reads, and an interpreter that ends would abort over it
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    sys.argv = sys.argv[1:]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
