"""What `tests/bench.py` measures; docs/bench.md says how and what each key means.

sizes     the programs' sizes
memory    how much memory each command needs
boots     how long a boot takes, with and without the initramfs
cards     the cards that flushes are measured on, and their speeds
ways      one measured flush, cowflush's or the classic recipe's
cowtable  how scattered a COW is
flushes   rounds of flushes, both ways beside each other
output    figures as JSON and as a table
"""
