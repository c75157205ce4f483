"""The packages' files and scripts, on this machine beside stand-ins. In real systems they run in systems/."""
