"""The demonstration, `make run`: a router's load, the checks of it, and the picture at the end."""
