"""What of this Python, with all that is installed in it, an image needs: `python PATH`, `packages PATH`,
`library PATH` and `file PATH`, one a line. Further arguments are programs that the image needs, too.
"""

import os
import subprocess
import sys
import sysconfig

executable = os.path.realpath(sys.executable)
standard = os.path.realpath(sysconfig.get_path("stdlib"))
packages = sysconfig.get_path("purelib")
print("python", executable)
print("packages", packages)

# The standard library without what makes it large.
left_out = {"test", "tests", "idlelib", "tkinter", "site-packages", "dist-packages", "__pycache__", "ensurepip"}
binaries = [executable, *sys.argv[1:]]
for directory, names, files in os.walk(standard):
    names[:] = [name for name in names if name not in left_out and not name.startswith("config-")]
    for name in files:
        path = os.path.join(directory, name)
        print("file", path)
        if name.endswith(".so"):
            binaries.append(path)
for directory, _, files in os.walk(packages):
    binaries += [os.path.join(directory, name) for name in files if name.endswith(".so")]

libraries = set()
for binary in binaries:
    for line in subprocess.run(["ldd", binary], capture_output=True, text=True).stdout.splitlines():
        words = line.split()
        path = words[2] if "=>" in words and len(words) > 2 else words[0]
        if path.startswith("/") and os.path.exists(path):
            libraries.add(path)
# Libraries that lie among the packages come with them.
for path in sorted(libraries):
    if not os.path.realpath(path).startswith(os.path.realpath(packages)):
        print("library", path)
