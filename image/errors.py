"""Why something is not done, in words for the person who asked for it."""

from __future__ import annotations


class Refused(Exception):
    """Nothing was changed. The text says why, and what to do."""
