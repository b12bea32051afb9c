"""Pictures of the demo's report, a bench report and pages of the site, at the width of a desktop and of a phone.

    make screenshots               into docs/screenshots; needs Chromium (Debian: apt install chromium)

The reports have to be there: `make demo` and `simtile bench --quick` write them, `make docs` builds the site. A page is
shown from its top, as far as a reader sees it first; a palette of 256 colours keeps files small.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "screenshots"
SITE = ROOT / "docs" / "build" / "html"
PAGES = {
    "demo": ROOT / "report" / "index.html",
    "bench": ROOT / "benches" / "out" / "report" / "index.html",
    "docs": SITE / "index.html",
    "docs-tutorial": SITE / "tutorials" / "existing_database.html",
    "docs-reference": SITE / "reference" / "functional.html",
}
SIZES = {"desktop": (1280, 1600), "phone": (390, 1800)}
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def shoot(browser: str, page: Path, size: tuple[int, int], picture: Path) -> None:
    """One page in a window of that size, written as a PNG of 256 colours.

    Headless Chromium has no window narrower than 500, so that a narrow page is shown in a frame of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        shown, raw = Path(folder) / "frame.html", Path(folder) / "raw.png"
        width, height = size
        shown.write_text(
            f'<body style="margin:0"><iframe src="{page.as_uri()}" width="{width}" height="{height}" '
            'style="border:0" scrolling="no"></iframe>'
        )
        command = [
            browser, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--allow-file-access-from-files",
            "--virtual-time-budget=4000", f"--user-data-dir={folder}/profile",
            f"--window-size={max(width, 500)},{height}", f"--screenshot={raw}", shown.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(raw) as image:
            cut = image.convert("RGB").crop((0, 0, width, height))
        cut.quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


def main() -> None:
    browser = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"screenshots: needs one of {', '.join(CHROMIUM)}")
    missing = [str(page.relative_to(ROOT)) for page in PAGES.values() if not page.exists()]
    if missing:
        sys.exit(f"screenshots: not there yet: {', '.join(missing)}")
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        for width, size in SIZES.items():
            picture = FOLDER / f"{name}-{width}.png"
            shoot(browser, page, size, picture)
            print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
