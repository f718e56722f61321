"""Truing's objectives against TRL's trainers: `cases` is the table, `compare` runs a line, `page` writes the docs."""
