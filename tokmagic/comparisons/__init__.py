"""Which prompt is worth its money: variants on the same items, their differences with intervals, and what these cost.

The door is :func:`tokmagic.comparisons.api.compare`, in Python ``tokmagic.compare``. scipy, statsmodels and pandas are
imported here alone and only when they are used. The room runs prompts through the session like everybody else; it never
opens an engine or writes to the ledger itself.
"""
