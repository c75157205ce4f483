"""Enumerates power cuts: records once everything that a card received, then cuts at many points.

states     which states a power cut can leave a card in; pure
ways       with a flush log or without: the card, and how it is recovered
recording  a busy guest that flushes, with a record of its card and of each flush's exact state
tree       root's files as the guest's own programs see them, and as e2fsprogs find them on a card
medium     the card as a cut left it, rebuilt quickly
judge      recovers such a card and says what it holds
boots      the same by a real boot
order      in which order a command wrote, and where a FLUSH must stand
run        all of it, and the figures
"""
