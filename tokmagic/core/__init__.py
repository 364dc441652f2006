"""What every room speaks of: prompts, streams, money, budgets, records, sums; the settings.

Import the file that holds the type: ``core.prompt``, ``core.stream``, ``core.money``, ``core.record``.
It never imports another room, and does nothing by itself.
"""
