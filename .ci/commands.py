"""Run the commands of raybd that Markdown files name in tables and shell blocks; a sweep is only planned (--dry-run).

Those with a word for the reader to fill in (RUN_ID, PATH) and those that change a store or write a table are left out.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

COMMAND = re.compile(r"(?:^|\| `)((?:raybd|\.venv/bin/python) [^`\n#]*)", re.MULTILINE)
LEFT_OUT = re.compile(r"\b[A-Z]{2,}|raybd (?:rm|mv|send|table|ui)\b")

pages = "\n".join(Path(page).read_text() for page in sys.argv[1:])
for command in dict.fromkeys(found.strip() for found in COMMAND.findall(pages)):
    words = shlex.split(command)
    if LEFT_OUT.search(command):
        continue
    words[0] = words[0].replace("raybd", ".venv/bin/raybd")
    if words[1].startswith("sweep") and not {"--dry-run", "--help"} & set(words):
        words.append("--dry-run")
    if "cifar10" in words:
        words += ["--data", "digits"]  # the files of CIFAR-10 are the reader's to bring
    print(f"$ {shlex.join(words)}", flush=True)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\n{command}: exit status {done.returncode}")
