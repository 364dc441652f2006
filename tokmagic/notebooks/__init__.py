"""Work on .ipynb files and the runs that their outputs keep: ``check``, ``freeze`` and ``reproduce`` are the doors.

All three read a file by ``saved`` and pair its cells with those of another time by ``align``.
No door writes to the notebook that it is given, or knows a command or a magic.
"""
