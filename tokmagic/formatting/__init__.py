"""How anything becomes text: numbers, tables, Markdown that is safe to show.

Door: ``numbers``, ``tables.Table``, ``markdown``.
It never asks a ledger or an engine, and computes no cost.
"""
