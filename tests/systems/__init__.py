"""Real systems, and systems that boot like real ones; `make test-systems` runs most of these tests.

debian       Debian systems with the package installed
debian_make  makes them: `make debian-systems`
images       images of cards that boot by their own boot loader
bases        images of other systems, partitioned as known systems are
files        what the tests put into such systems
"""
