"""What `make bench` measures; docs/bench.md says how and what each key means.

sizes     the programs' sizes
memory    how much memory each command needs
daemon    the daemon's memory, wake-ups and CPU share, and how soon /etc is durable
boots     how long a boot takes, with and without the initramfs and a flush log
cards     the cards that flushes are measured on, and their speeds
ways      one measured flush: cowflush's, with a log or without, or the classic recipe's
cowtable  how scattered a COW is
logcards  cards whose flush log holds no segment, some, or as much as it can
flushes   rounds of flushes, each way in turn
output    figures as JSON and as a table
"""
