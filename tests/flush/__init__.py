"""Flushes, merges and stops, and all that may go wrong in them, but for what is the flush log's own."""
