"""Boots: what cowflush does as /init, with good and bad input."""
