"""Work on .ipynb files: a gate for what their runs cost, a record of what they ran with, running them again."""
