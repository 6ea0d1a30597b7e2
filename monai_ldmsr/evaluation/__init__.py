"""How good super-resolution is on volumes that are sharp already: rows, figures, table and pictures.

Nothing is imported here: what reads images or draws may be missing where a training runs.
"""
