"""Cuts the power at each step of what dpkg does with the package in a real Debian system.

story     two systems, with all that their cards receive recorded: root on the plain card, and root on the stack
native    the first of them: its card mounted on this machine, where Debian's programs run in a chroot
kept      tells them once
judge     a card as a cut left it, looked at from outside: its filesystem, dpkg's state, what each initramfs and
          GRUB's menu hold, and the flush log
again     such a card booted, and the operation run again there
"""
