"""Flushes, merges and stops, and everything that can go wrong in them outside the flush log."""
