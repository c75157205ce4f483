"""Cuts the power at each step of what dpkg does with the package in a real Debian system.

story     two systems, with all that their cards receive recorded: root on the plain card, and on
          the stack
native    the first of them: its card mounted on the host, with Debian's programs in a chroot
kept      keeps their records, so that each is told once
judge     a card after a cut, seen from outside: its filesystem, dpkg's state, the content of each
          initramfs and of GRUB's menu, and the flush log
again     boots such a card, and runs the operation again there
"""
