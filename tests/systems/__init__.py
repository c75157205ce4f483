"""Real systems, and what boots like one; `make test-systems` runs most of these tests.

debian       Debian systems with the package installed
debian_make  makes them: `make debian-systems`
images       images of cards that boot by their own boot loader
bases        images of others, laid out as known systems lay theirs out
files        what the tests put into such systems
"""
