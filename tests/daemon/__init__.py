"""The daemon: when it flushes, what it does when memory or the COW gets full, and on a card that fails."""
