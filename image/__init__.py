"""Images of cards, made and flashed on any Linux machine, without root rights and loop devices.

What looks into a filesystem or changes one is e2fsprogs, mtools or sfdisk; what is here decides.
"""
