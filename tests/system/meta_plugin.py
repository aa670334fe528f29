#!/usr/bin/python3 -I
"""A meta plugin as Multus is one: several networks for a container, each by another invocation.

The first is the container's eth0 and its result that of the whole; later ones are net1, net2, ...
What each was told is kept for CHECK and DEL, which come in the opposite order.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    whole = json.load(sys.stdin)
    verb, container = os.environ["CNI_COMMAND"], os.environ["CNI_CONTAINERID"]
    calls = [(f"net{n}" if n else "eth0", given) for n, given in enumerate(whole["delegates"])]
    printed = b""
    for ifname, given in calls if verb == "ADD" else reversed(calls):
        kept = Path(whole["cacheDir"], f"{container}-{ifname}")
        inner = {"cniVersion": whole["cniVersion"], **given}
        if verb != "ADD" and kept.exists():
            inner["prevResult"] = json.loads(kept.read_bytes())
        done = subprocess.run(
            [find(inner["type"])],
            input=json.dumps(inner).encode(),
            stdout=subprocess.PIPE,
            env={**os.environ, "CNI_IFNAME": ifname},
            check=False,
        )
        if done.returncode:
            sys.stdout.buffer.write(done.stdout)
            return 1
        if verb == "ADD":
            kept.write_bytes(done.stdout)
            printed = printed or done.stdout
    sys.stdout.buffer.write(printed)
    return 0


def find(plugin: str) -> str:
    paths = (Path(part, plugin) for part in os.environ["CNI_PATH"].split(":"))
    return str(next(path for path in paths if os.access(path, os.X_OK)))


if __name__ == "__main__":
    sys.exit(main())
