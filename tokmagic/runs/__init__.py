"""One run from its hold to its settled row, and the session that it belongs to.

Its door is ``session.Session``, and ``api``, the same as functions; ``Session.generate`` gives a ``Generation``.
It never asks which engine runs or which database keeps the row, and shows nothing: whoever watches is told.
"""
