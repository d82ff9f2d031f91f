"""Takes some files out of wheels or tar archives, or compares a folder with a wheel.

Called as `unpack.py take|compare DESTINATION ARCHIVE PATTERN=TARGET [PATTERN=TARGET ...]`.

A PATTERN that ends in `/` stands for everything below that folder of the archive, and TARGET is
where it goes below DESTINATION; any other PATTERN is one file. `compare` ends with code 3 when a
file is missing or differs in size or CRC-32.
"""

import os
import shutil
import sys
import tarfile
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


def wanted(names, rules):
    """Pairs of an entry and where it goes; ends with an error when a rule finds none."""
    found, unused = [], {pattern for pattern, _ in rules}
    for name, entry in names:
        target = place(name, rules)
        if target is not None:
            unused -= {p for p in unused if name.startswith(p)}
            found.append((entry, target))
    if unused:
        sys.exit(f"the archive does not hold {', '.join(sorted(unused))}")
    return found


def write(source, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with source, open(path, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def main():
    mode, destination, path, *pairs = sys.argv[1:]
    rules = [tuple(pair.split("=", 1)) for pair in pairs]
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            files = [(entry.name, entry) for entry in archive.getmembers() if entry.isfile()]
            for entry, target in wanted(files, rules):
                write(archive.extractfile(entry), os.path.join(destination, target))
        return
    with zipfile.ZipFile(path) as archive:
        # Wheels hold entries for folders, too; folders are made as files need them.
        files = [(entry.filename, entry) for entry in archive.infolist() if not entry.is_dir()]
        for entry, target in wanted(files, rules):
            file = os.path.join(destination, target)
            if mode == "compare":
                if not same(file, entry):
                    sys.exit(3)
                continue
            write(archive.open(entry), file)


try:
    main()
except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
    sys.exit(f"unpacking failed: {error}")
