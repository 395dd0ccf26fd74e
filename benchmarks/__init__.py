"""Figures about real networks; each module is a command that prints a table and can refresh it in docs/."""
