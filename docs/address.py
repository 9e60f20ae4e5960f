"""Give the notebooks the address of the repository, which stands in ``pyproject.toml`` alone.

    python docs/address.py

The address is ``Repository`` in ``[project.urls]``. With it, the badge of a notebook opens the file
in Colab, and its first cell installs the package from there. Without it, the badge opens Colab's
page for uploads, and the first cell installs the clone that the notebook lies in.
"""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLAB = "https://colab.research.google.com/"
BADGE = re.compile(rf"\[!\[Open in Colab\]\({COLAB}assets/colab-badge\.svg\)\]\([^)]*\)[^\n]*")
PACKAGE = re.compile(r'^PACKAGE = "[^\[]*(\[\w+\]).*$', re.M)


def repository(pyproject: str) -> str | None:
    """The public address of the repository, where it has one."""
    address = tomllib.loads(pyproject)["project"].get("urls", {}).get("Repository")
    return None if address is None else address.rstrip("/").removesuffix(".git")


def followed(text: str, name: str, address: str | None) -> str:
    """The text of a cell, with the badge and the package of an address; its extra is kept.

    Args:
        text: of a cell, or of a whole script.
        name: of the notebook, without its suffix.
        address: of the repository.
    """
    link, words = f"{COLAB}#upload=true", " Colab asks for this file: upload it."
    package = r'"..\1"  # the clone around this notebook; in Colab a wheel of it'
    if address is not None:
        place = address.split("://", 1)[1].replace("github.com", "github", 1)
        link, words = f"{COLAB}{place}/blob/main/notebooks/{name}.ipynb", ""
        package = rf'"snrgate\1 @ git+{address}"'
    badge = f"[![Open in Colab]({COLAB}assets/colab-badge.svg)]({link}){words}"
    text = BADGE.sub(lambda _: badge, text)
    return PACKAGE.sub(rf"PACKAGE = {package}", text)


def follow(path: Path, address: str | None) -> dict[Path, str]:
    """Both forms of a notebook, with the badge and the package of an address.

    Args:
        path: of the script; the notebook lies beside it.
        address: of the repository.
    """
    script, notebook = path.read_text(), path.with_suffix(".ipynb")
    content = json.loads(notebook.read_text())
    for cell in content["cells"]:
        source = followed("".join(cell["source"]), path.stem, address)
        cell["source"] = source.splitlines(keepends=True)
    written = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return {path: followed(script, path.stem, address), notebook: written}


def main() -> None:
    """Rewrite what does not follow."""
    address = repository((ROOT / "pyproject.toml").read_text())
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        for file, text in follow(path, address).items():
            file.write_text(text)


if __name__ == "__main__":
    main()
