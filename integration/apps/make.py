"""make -j: a build of small C files, run by the container.

It has no client: integration/tests/apps.rs counts the object files.
"""

import subprocess
import sys

import app

FILES = 60
FUNCTIONS = 1000
BUILD = app.DATA + "/build"


def start():
    for number in range(FILES):
        # Large enough that a compiler runs at nearly every checkpoint.
        body = "\n".join(f"static int f{n}(int x) {{ return x * {n} + {number}; }}" for n in range(FUNCTIONS))
        calls = " + ".join(f"f{n}(1)" for n in range(FUNCTIONS))
        app.file(f"{BUILD}/part{number}.c", f"{body}\nint part{number}(void) {{ return {calls}; }}\n")
    declared = "\n".join(f"int part{n}(void);" for n in range(FILES))
    total = " + ".join(f"part{n}()" for n in range(FILES))
    app.file(f"{BUILD}/main.c", f'#include <stdio.h>\n{declared}\nint main(void) {{ printf("%d\\n", {total}); }}\n')
    objects = " ".join(["main.o"] + [f"part{n}.o" for n in range(FILES)])
    app.file(f"{BUILD}/Makefile", f"result: {objects}\n\t$(CC) -o $@ $^\nCFLAGS = -O2\n")
    # A shell is the container's init and reaps orphans, which make does not.
    app.become(
        "sh", "-c", f"make -C {BUILD} -j4 && echo built >{app.DATA}/end || echo failed >{app.DATA}/end; sleep infinity"
    )


def check():
    answer = subprocess.run([BUILD + "/result"], check=True, capture_output=True, text=True).stdout
    expected = sum(n + number for number in range(FILES) for n in range(FUNCTIONS))
    assert int(answer) == expected, answer


match sys.argv[1:]:
    case ["start"]:
        start()
    case ["check", _]:
        check()
