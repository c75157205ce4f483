"""The flush log: its flushes, its commands, damage, owners, and formats."""
