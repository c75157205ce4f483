"""The parts of `make soak`.

load    the router's work in the guest: files, a log, two databases
judge   what must be on the card after a power cut
watch   memory and devices over time, which must not grow
rounds  boots, flushes, kills, power cuts
"""
