"""Backends: each lowers the traced graphs to the files of a target."""
