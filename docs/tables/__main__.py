"""Write every generated block of the documents. Usage: python -m tables."""

from tables import TABLES
from tables.blocks import ROOT, documents, render
from tables.configs import metafiles


def main() -> None:
    """Write the documents and metafiles that have changed, and name them."""
    for path, text in metafiles().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)} updated")
    for path in documents():
        before = path.read_text()
        try:
            after = render(before, TABLES)
        except ValueError as error:
            raise SystemExit(f"{path.relative_to(ROOT)}: {error}") from error
        if after != before:
            path.write_text(after)
            print(f"{path.relative_to(ROOT)} updated")


if __name__ == "__main__":
    main()
