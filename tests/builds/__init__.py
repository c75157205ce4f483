"""Builds: programs, kernels, versions, and the machine that builds them.

Packages are tested elsewhere.
"""
