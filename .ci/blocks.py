"""Run the Python blocks of a Markdown file, one after another in one namespace, as a reader would."""

import re
import sys
from pathlib import Path

blocks = re.findall(r"^```python\n(.*?)^```", Path(sys.argv[1]).read_text(), re.DOTALL | re.MULTILINE)
if not blocks:
    sys.exit(f"{sys.argv[1]} has no Python block")
names: dict[str, object] = {"__name__": "__main__"}
for block in blocks:
    print(f">>> {block.splitlines()[0]}")
    exec(compile(block, sys.argv[1], "exec"), names)
