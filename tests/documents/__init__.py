"""The documents and the messages, compared with the program, the Makefile and the tests."""
