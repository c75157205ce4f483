"""Mutation testing, `make mutants`: what decides and what flushes is changed in one small way after another, and a test must notice.

alive     the list of changes that make no difference, and what a run is held against
alive.toml  that list: one line of reason each
"""
