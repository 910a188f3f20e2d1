"""``ops/write-reference``: writes the pages of ``ops/reference/``, and says which were not up to date."""

from tests.reference_pages import ROOT, written

for path, text in written().items():
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
