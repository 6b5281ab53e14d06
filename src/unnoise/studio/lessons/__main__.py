"""python -m unnoise.studio.lessons FOLDER [where docs/maths.md is, seen from there]."""

import sys
from pathlib import Path

from unnoise.studio.lessons import write

print(*write(Path(sys.argv[1]), *sys.argv[2:3]), sep="\n")
