"""What the sidebar shows of a run that a person opens: sent when it is asked for, never with a snapshot.

``service`` puts it together from the ledger and from what this kernel remembers; ``changes`` compares a run with the
one before it, ``snippets`` writes it out as code, ``wire`` is the message (docs/wire.md).
"""
