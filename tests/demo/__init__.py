"""The demonstration, `make run`: a router's load, what is checked of it, and the picture at the end."""
