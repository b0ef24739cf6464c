"""Run a script that needs the package walbasin, where the package need not be.

stdin has the files of both (JSON: path -> text). Arguments: the name of the script's
module, then its own.
"""

import json
import os
import runpy
import sys
import tempfile


def main() -> None:
    """Write the files into a folder of this run's, and run the script there."""
    files = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
            with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                file.write(text)
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
