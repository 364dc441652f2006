"""One run from its hold to its settled row, and the session that it belongs to."""
