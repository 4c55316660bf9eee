#!/usr/bin/env python3
"""Adds the runtime `cedana` to Docker's daemon.json, or removes it.

    daemon-json.py add FILE NOTE | remove FILE NOTE

FILE is daemon.json. NOTE lists the added entries, and `remove` removes only these.
Both files are replaced as a whole or not at all. Other entries of FILE keep their
order and value. If `add` created FILE, `remove` removes it.
"""

import json
import os
import re
import sys
import tempfile

RUNTIME = {"runtimeType": "io.containerd.cedana.v2"}


def die(text):
    sys.exit(f"daemon-json: {text}")


def unique(pairs):
    """Refuses duplicate keys, which a rewrite would lose."""
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"it has the key {key!r} twice")
    return dict(pairs)


def read(path, missing):
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return missing, ""
    if not text.strip():
        return missing, text
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        die(f"{path} is not changed: {error}; correct it first")
    if not isinstance(value, type(missing)):
        die(f"{path} is not changed: it does not hold a {type(missing).__name__}")
    return value, text


def write(path, value, like):
    """Writes `path` in the style of its earlier text: indentation, last newline, mode."""
    found = re.search(r"\n([ \t]+)\S", like)
    indent = found[1] if found else ("  " if "\n" in like.strip() or not like else None)
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if not like or like.endswith("\n"):
        text += "\n"
    folder = os.path.dirname(os.path.realpath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".daemon-json-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
        os.chmod(temporary, mode)
        # A symbolic link is kept; its target is replaced.
        os.replace(temporary, os.path.realpath(path))
    except BaseException:
        os.unlink(temporary)
        raise


def add(path, note):
    settings, text = read(path, {})
    added, _ = read(note, [])
    if not os.path.exists(path):
        added.append("file")
    runtimes = settings.get("runtimes", {})
    if not isinstance(runtimes, dict):
        die(f'{path} is not changed: its "runtimes" is no object')
    if "cedana" in runtimes:
        print(f"keeping the runtime cedana in {path}")
    else:
        if "runtimes" not in settings:
            added.append("runtimes")
        settings["runtimes"] = {**runtimes, "cedana": RUNTIME}
        added.append("runtimes.cedana")
    # Docker has `docker checkpoint` only with it.
    if "experimental" not in settings:
        settings["experimental"] = True
        added.append("experimental")
    elif settings["experimental"] is not True:
        print(f"{path} turns off experimental features, which `docker checkpoint` needs", file=sys.stderr)
    if added:
        write(note, added, "\n")
    write(path, settings, text)
    print(f"the runtime cedana is in {path}; restart Docker to use it")


def remove(path, note):
    added, _ = read(note, [])
    if not added:
        return
    settings, text = read(path, {})
    runtimes = settings.get("runtimes", {})
    if "runtimes.cedana" in added and runtimes.get("cedana") == RUNTIME:
        del runtimes["cedana"]
    elif "cedana" in runtimes:
        print(f"keeping the runtime cedana in {path}, which was changed after the installation")
    if "runtimes" in added and runtimes == {}:
        settings.pop("runtimes", None)
    if "experimental" in added and settings.get("experimental") is True:
        del settings["experimental"]
    if "file" in added and not settings:
        if os.path.exists(path):
            os.unlink(path)
    elif os.path.exists(path):
        write(path, settings, text)
    os.unlink(note)
    print(f"the runtime cedana is removed from {path}; restart Docker")


def main():
    verbs = {"add": add, "remove": remove}
    if len(sys.argv) != 4 or sys.argv[1] not in verbs:
        sys.exit(__doc__)
    verbs[sys.argv[1]](*sys.argv[2:])


main()
