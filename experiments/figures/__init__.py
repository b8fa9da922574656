"""Figures of runs, in the sizes of a two-column page and legible in black and white."""
