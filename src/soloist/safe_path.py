"""What code for `python -c` begins with. Pure."""

# Python's own first entry of the path is the current folder: a file there might have the name of a module.
SAFE_PATH = "import sys; sys.path[:] = [folder for folder in sys.path if folder]; "
