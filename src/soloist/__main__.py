"""`python -m soloist`: the command line, where the script `soloist` is not on the path."""

from soloist.cli import main

if __name__ == "__main__":
    main()
