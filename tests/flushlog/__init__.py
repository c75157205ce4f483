"""The flush log: its flushes, its commands, damage, whose it is, and the formats."""
