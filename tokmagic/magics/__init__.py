"""The magics: parse, call, show; nothing is computed here."""
