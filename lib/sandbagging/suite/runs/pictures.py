"""Pictures small enough to be committed."""

import io


def small_png(png: bytes) -> bytes:
    """Return a picture with at most 256 colours on white, as PNG.

    Figures of lines and text need no more, and it is a third as large.
    """
    from PIL import Image  # matplotlib's own dependency

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    small = io.BytesIO()
    few = page.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(small, format="PNG", optimize=True)
    return small.getvalue()
