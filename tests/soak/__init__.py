"""What `make soak` is made of.

load    the router's work in the guest: files, a log, two databases
judge   what must be on the card after a power cut
watch   memory and devices over time, which must stay flat
rounds  boots, flushes, kills, power cuts
"""
