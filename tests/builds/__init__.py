"""What is built, and on what machine: programs, kernels, versions. Not what is in a package."""
