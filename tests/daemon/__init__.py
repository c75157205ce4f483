"""The daemon: when it flushes, and what it does with full memory, a full COW or a failing card."""
