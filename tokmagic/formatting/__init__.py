"""How anything becomes text: numbers, tables, Markdown. It knows no run and asks nobody."""
