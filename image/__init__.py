"""Images of cards, made and flashed on any Linux machine, without root rights and loop devices.

e2fsprogs, mtools and sfdisk read and change filesystems and tables; the code here decides.
"""
