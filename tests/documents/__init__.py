"""The documents and the messages: held against the program, the Makefile and the tests."""
