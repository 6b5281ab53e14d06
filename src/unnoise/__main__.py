"""`python -m unnoise`."""

from unnoise.cli import entry

if __name__ == "__main__":
    entry()
