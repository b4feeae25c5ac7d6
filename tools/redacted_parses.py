"""Whether redacted Python still parses: python3 tools/redacted_parses.py DIRECTORY

DIRECTORY is what `cargo bench --bench redaction -- CODE --ends py --into DIRECTORY` wrote: files with a replacement, in
`before` and `after`. Prints how many parsed before, how many of those parse after, and the first few that do not.
"""

import ast
import pathlib
import sys
import warnings


def error(path: pathlib.Path) -> str | None:
    """Why a file does not parse."""
    try:
        ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as problem:
        return str(problem)
    return None


def main(root: pathlib.Path) -> int:
    """Compares the two folders; the exit code says whether something was broken."""
    warnings.simplefilter("ignore")
    whole = [path for path in sorted((root / "before").glob("*.py")) if error(path) is None]
    broken = [(path, why) for path in whole if (why := error(root / "after" / path.name))]
    print(f"{len(whole)} parsed before, {len(whole) - len(broken)} of them parse after")
    for path, why in broken[:20]:
        print(f"  {path.name}: {why}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
