"""One module a form of file: its rows, its columns, and what was guessed of it."""
