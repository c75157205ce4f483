"""Boots: what cowflush does as /init, and what it is given there."""
