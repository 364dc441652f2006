"""A cell's text and its option line become a Prompt. Nothing is counted or sent here."""
