"""The style sheets of report.html and of ``dr-encoder watch``: light and dark, from a phone's width up, on paper."""

from server_app.results.palette import PALETTE

_DARK = {
    "ink": "#e7ebef", "muted": "#9aa5b1", "grid": "#343c45", "blue": "#7db3f0", "orange": "#f0a35e", "teal": "#5cc9b5",
    "purple": "#c3a1ea", "olive": "#c8c45c", "red": "#f08a9c", "brown": "#d1a385", "pink": "#e99acb",
}  # fmt: skip
_LIGHT_PAGE = {
    "page": "#f6f7f9", "card": "#ffffff", "faint": "#eef1f4", "bad": "#9f1d35", "bad-back": "#fdecef",
    "link": "#1f5fa8", "soft": "#565f69",
}  # fmt: skip
_DARK_PAGE = {
    "page": "#12161b", "card": "#1a2027", "faint": "#232b33", "bad": "#ffb3bf", "bad-back": "#3a1a21",
    "link": "#8fc0f7", "soft": "#a9b4bf",
}  # fmt: skip


def _properties(*colors: dict[str, str]) -> str:
    return "".join(f"--{name}:{code};" for group in colors for name, code in group.items())


THEME = f"""
:root {{ color-scheme: light dark; {_properties(PALETTE, _LIGHT_PAGE)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_properties(_DARK, _DARK_PAGE)} }} }}
@media print {{ :root {{ color-scheme: light; {_properties(PALETTE, _LIGHT_PAGE)} --page:#fff; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", Helvetica, Arial, sans-serif; overflow-wrap: anywhere; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 2rem 1rem 3rem; }}
h1 {{ font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }}
h2 {{ font-size: 1.25rem; margin: 2.6rem 0 .8rem; }}
h3 {{ font-size: 1rem; margin: 0; }}
p {{ margin: .5rem 0; max-width: 75ch; }}
a {{ color: var(--link); }}
code, pre {{ font: .875em/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
pre {{ background: var(--faint); border-radius: 8px; padding: .9rem 1rem; margin: .6rem 0; white-space: pre-wrap; }}
.soft {{ color: var(--soft); font-size: .9rem; }}
.card {{ background: var(--card); border: 1px solid var(--grid); border-radius: 12px; padding: 1rem 1.1rem; }}
.lead {{ font-size: 1.1rem; max-width: 70ch; }}
.warning {{ border-left: 4px solid var(--bad); background: var(--bad-back); color: var(--bad); border-radius: 6px;
  padding: .7rem 1rem; margin: .8rem 0; font-weight: 600; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); gap: .8rem;
  margin: 1.4rem 0 0; padding: 0; }}
.tiles dt {{ color: var(--soft); font-size: .85rem; }}
.tiles dd {{ margin: 0; }}
.tiles .big {{ font-size: 1.35rem; font-weight: 650; letter-spacing: -.01em; font-variant-numeric: tabular-nums; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .45rem .9rem .45rem 0;
  border-bottom: 1px solid var(--grid); }}
thead th {{ color: var(--soft); font-weight: 500; font-size: .85rem; }}
tbody th {{ font-weight: 500; }}
tr:last-child > * {{ border-bottom: 0; }}
details {{ margin: .5rem 0; }}
summary {{ cursor: pointer; color: var(--link); font-size: .9rem; }}
:focus-visible {{ outline: 2px solid var(--link); outline-offset: 2px; border-radius: 4px; }}
"""

REPORT = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .2rem 0 .3rem; padding: 0; list-style: none;
  font-size: .82rem; color: var(--soft); min-height: 1.3em; }
.legend i { display: inline-block; width: 1.1em; height: 0; border-top: 3px solid; vertical-align: .25em;
  margin-right: .35em; }
.legend .thin i { border-top-width: 1.5px; }
.plot { position: relative; touch-action: pan-y; }
.plot svg { display: block; width: 100%; height: auto; }
.plot svg text { font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", Helvetica, Arial, sans-serif !important; }
.mark { position: absolute; top: 3%; bottom: 14%; width: 0; border-left: 1px dashed var(--muted);
  pointer-events: none; }
.tip { position: absolute; top: 4%; pointer-events: none; background: var(--card); border: 1px solid var(--muted);
  border-radius: 8px; padding: .4rem .6rem; font-size: .82rem; line-height: 1.4; white-space: nowrap;
  font-variant-numeric: tabular-nums; box-shadow: 0 2px 10px rgb(0 0 0 / .18); }
.tip b { display: block; }
.scroll { overflow: auto; max-height: 22rem; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 1rem; }
.samples h3 { white-space: pre-wrap; font-weight: 500; background: var(--faint); border-radius: 8px;
  padding: .6rem .8rem; }
.answers { display: grid; gap: .6rem; margin: .7rem 0 0; }
.answers dt { color: var(--soft); font-size: .82rem; }
.answers dd { margin: 0; white-space: pre-wrap; }
.choices { margin-top: .5rem; table-layout: fixed; }
.choices th:first-child { width: 40%; }
.choices .right { font-weight: 700; }
.bar { display: block; height: .45rem; border-radius: 3px; background: var(--muted); margin-top: .2rem;
  min-width: 1px; }
.bar.tuned { background: var(--blue); }
.facts th { width: 30%; padding-right: 1.2rem; }
.command { position: relative; }
@media (max-width: 560px) {
  .stack thead { display: none; }
  .stack tr, .stack th, .stack td { display: block; width: auto; border: 0; padding: .1rem 0; }
  .stack tr { border-bottom: 1px solid var(--grid); padding: .55rem 0; }
  .stack tbody th { font-weight: 600; }
  .stack td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
}
@page { margin: 14mm; }
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  article, figure, tr, .warning, .tiles > div { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  .tip, .mark, .charts details { display: none; }
}
"""
