"""What a cell's prompt would take, counted while it is typed: nothing is run, evaluated or fetched for it.

The sidebar tells each change of the cell's text (``wire``). The text is read as its magic would read it and filled in
as far as that is safe (``cells``), put into the model's template and counted (``counting``); ``service`` answers.
"""
