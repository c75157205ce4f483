"""Mutation testing, `make mutants`: a test must notice each small change of the program.

alive       the list of changes that make no difference, and the judgement of a run
alive.toml  that list: one line of reason each
"""
