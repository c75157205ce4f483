"""The packages' files and scripts, on the host with stand-ins; systems/ runs them for real."""
