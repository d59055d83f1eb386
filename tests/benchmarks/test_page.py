"""The page of figures says what the stored results say."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_page_is_rendered_from_the_results() -> None:
    spec = importlib.util.spec_from_file_location("benchmark_page", ROOT / "benchmarks" / "page.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.PAGE.read_text("utf-8") == page.render_page(), "run: python benchmarks/page.py"
