"""Draws `soft_prompt.svg`, the figure of the README: what a soft prompt is.

python docs/soft_prompt.py            # writes it
python docs/soft_prompt.py --check    # exit code 1 if the file is out of date
"""

import sys
from pathlib import Path

FIGURE = Path(__file__).with_name("soft_prompt.svg")
WIDTH, HEIGHT = 760, 300
STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Arial, sans-serif; fill: #1f2328; }
  .small { font-size: 12px; fill: #59636e; }
  .box { stroke: #59636e; fill: #f6f8fa; }
  .frozen { stroke: #59636e; fill: #dbe2ea; }
  .trained { stroke: #9a3412; fill: #fdba74; }
  .on { fill: #431407; }
  .arrow { stroke: #59636e; stroke-width: 1.5; fill: none; marker-end: url(#head); }
  .head { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #a3aeb9; }
    .box { stroke: #a3aeb9; fill: #151b23; }
    .frozen { stroke: #a3aeb9; fill: #2f3842; }
    .trained { stroke: #fdba74; fill: #b45309; }
    .on { fill: #fff7ed; }
    .arrow { stroke: #a3aeb9; }
    .head { fill: #a3aeb9; }
  }
"""
PIECES = ("I", "was", "billed", "twice")


def rect(x: int, y: int, width: int, height: int, kind: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" class="{kind}"/>'


def text(x: int, y: int, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" class="{kind}">{words}</text>'


def arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<path d="M{x} {y} L{to_x} {to_y}" class="arrow"/>'


def draw() -> str:
    """The figure as SVG, for light and dark pages."""
    parts = []
    for number in range(4):
        x = 30 + number * 48
        parts += [rect(x, 150, 40, 40, "trained"), text(x + 20, 175, f"p{number + 1}", "on")]
    for number, piece in enumerate(PIECES):
        x = 240 + number * 66
        parts += [rect(x, 150, 58, 40, "frozen"), text(x + 29, 175, "E", "")]
        parts += [rect(x, 235, 58, 30, "box"), text(x + 29, 255, piece)]
        parts.append(arrow(x + 29, 233, x + 29, 194))
    parts += [text(126, 216, "trained: a few thousand numbers", "small")]
    parts += [text(126, 234, "the same for every input", "small")]
    parts += [text(369, 288, "the input, as pieces of text", "small")]
    parts += [rect(30, 50, 466, 56, "frozen"), text(263, 76, "encoder of a T5, frozen")]
    parts += [text(263, 95, "millions or billions of numbers that do not change", "small")]
    parts += [arrow(126, 148, 126, 110), arrow(369, 148, 369, 110), arrow(498, 78, 536, 78)]
    parts += [rect(540, 50, 110, 56, "frozen"), text(595, 76, "decoder,"), text(595, 94, "frozen")]
    parts += [arrow(652, 78, 684, 78), text(718, 83, "billing")]
    parts += [text(718, 104, "the answer", "small")]
    parts += [text(263, 32, "The prompt is put before the embedded text; only the prompt learns.")]
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="A soft prompt: trained rows before the embeddings of a text, in front of a '
        'frozen T5">\n'
        f"  <style>{STYLE}  </style>\n"
        '  <defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" class="head"/></marker></defs>\n'
        f"  {body}\n</svg>\n"
    )


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not FIGURE.is_file() or FIGURE.read_text(encoding="utf-8") != draw():
            sys.exit("docs/soft_prompt.svg: out of date; run python docs/soft_prompt.py")
    else:
        FIGURE.write_text(draw(), encoding="utf-8")
