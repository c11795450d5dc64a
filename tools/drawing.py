"""A drawing of boxes, texts and arrows as a small SVG file that a person can review. pictures.py uses it.

Lengths are in pixels, x to the right and y downwards. Texts stay text, so they need no fonts here. A width is
only estimated: see columns().
"""
import unicodedata
from xml.sax.saxutils import escape

GREY, PALE, WHITE = "#888888", "#eeeeee", "#ffffff"
# matplotlib's colours, as in docs/*.svg, and lighter ones to write on
BLUE, ORANGE, GREEN, PURPLE = "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd"
LIGHT = {BLUE: "#d2e4f1", ORANGE: "#ffe0c4", GREEN: "#d5ecd5", PURPLE: "#e4daee", GREY: "#dddddd"}

FRAME = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"
viewBox="0 0 {width} {height}">
<title>{title}</title>
<style>
text {{ font: 12px "DejaVu Sans", Verdana, "Noto Sans", sans-serif; fill: #222222; text-anchor: middle }}
.left {{ text-anchor: start }} .right {{ text-anchor: end }} .bold {{ font-weight: bold }}
.small {{ font-size: 10px }} .grey {{ fill: #666666 }} .head {{ font-size: 14px; font-weight: bold }}
path {{ fill: none; stroke: #666666 }} rect {{ stroke: #888888 }} .plain {{ stroke: none }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z" style="fill:#666666;stroke:none"/></marker></defs>
<rect width="{width}" height="{height}" fill="#ffffff" class="plain"/>
"""


def number(x):
    """number(3.0) -> "3"   number(2.346) -> "2.3" """
    return f"{x:.1f}".removesuffix(".0")


def columns(text):
    """How many letters wide a text is, about. columns("ab") -> 2; Chinese characters count twice, marks on
    a letter before them not at all."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.category(c) == "Mn" for c in text[1:])
    return max(1, len(text) + wide - marks)


class Drawing:
    """Shapes are drawn in the order in which they are called."""
    def __init__(self, width, height, title):
        self.parts = [FRAME.format(width=width, height=height, title=escape(title))]

    def text(self, x, y, text, style=""):
        """`text` around (x, y); `style` are names of FRAME's classes: "left small"."""
        style = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{number(x)}" y="{number(y + 4)}"{style}>{escape(text)}</text>\n')

    def box(self, x, y, width, height, fill=PALE, text="", style="", frame=""):
        """A rectangle with its corner at (x, y), and a text in the middle."""
        frame = f' class="{frame}"' if frame else ""
        size = f'width="{number(width)}" height="{number(height)}"'
        self.parts.append(f'<rect x="{number(x)}" y="{number(y)}" {size} fill="{fill}"{frame}/>\n')
        if text:
            self.text(x + width / 2, y + height / 2, text, style)

    def boxes(self, corners, height, fill):
        """Many rectangles (x, y, width) in one path, which keeps the file small."""
        path = "".join(f"M{number(x)} {number(y)}h{number(w)}v{number(height)}h{number(-w)}z"
                       for x, y, w in corners)
        self.parts.append(f'<path d="{path}" style="fill:{fill}"/>\n')

    def arrow(self, *points, tip=True):
        """A line through points (x, y)."""
        path = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        end = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<path d="M{path}"{end}/>\n')

    def svg(self):
        return "".join([*self.parts, "</svg>\n"])
