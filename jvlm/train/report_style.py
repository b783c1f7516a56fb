"""The report's style sheet: light and dark by the reader's system, no font or script from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --bg: #fcfcfb; --fg: #1d232b; --soft: #667180; --rule: #dfe3e8; --card: #fff;
  --good: #18794e; --good-bg: #e3f4ea; --bad: #b42318; --band: #b9cdf3;
  --s0: #2f6fde; --s1: #d9662b; --s2: #1f9d77; --s3: #9b51c4; --s4: #b8860b; --s5: #c2376b; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171c; --fg: #e5e9ef; --soft: #98a3b1; --rule: #2d343e;
  --card: #1b2027; --good: #63d29b; --good-bg: #173627; --bad: #ff8a7d; --band: #2c4677;
  --s0: #6ea3ff; --s1: #ff9b66; --s2: #52cfa6; --s3: #c896ea; --s4: #e0b84a; --s5: #f07ba5; } }
.painted { display: flex; flex-wrap: wrap; gap: 8px 6px; margin: 4px 0; align-items: flex-start; }
.painted figure { border: 0; padding: 0; background: none; width: 84px; text-align: center; }
.painted img { width: 72px; height: 72px; border: 2px solid transparent; image-rendering: auto; }
.painted .right img { border-color: var(--good); } .painted.small figure { width: 52px; }
.painted.small img { width: 48px; height: 48px; } .painted b { width: 84px; color: var(--soft); font-size: 12.5px; }
.painted figcaption { font-weight: 400; font-size: 11.5px; line-height: 1.25; margin: 2px 0 0; color: var(--soft); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 28px 22px 60px; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 26px; margin: 0 0 2px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 42px 0 10px; padding-bottom: 5px; border-bottom: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 22px 0 8px; }
p, .note { color: var(--soft); margin: 4px 0 12px; max-width: 84ch; }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0 0; }
.fact { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 8px 14px; min-width: 104px; }
.fact b { display: block; font-size: 18px; font-variant-numeric: tabular-nums; font-weight: 600; }
.fact span { color: var(--soft); font-size: 12.5px; }
.fact.bad b { color: var(--bad); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 12px; }
figcaption { font-weight: 600; font-size: 13.5px; margin: 0 0 4px 4px; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.chart .grid { stroke: var(--rule); } .chart .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .faint { opacity: .28; stroke-width: 1; }
.dot.s0 { fill: var(--s0); } .dot.s1 { fill: var(--s1); } .dot.s2 { fill: var(--s2); }
.dot.s3 { fill: var(--s3); } .dot.s4 { fill: var(--s4); } .dot.s5 { fill: var(--s5); }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); }
.s3 { stroke: var(--s3); } .s4 { stroke: var(--s4); } .s5 { stroke: var(--s5); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 12.5px; color: var(--soft); padding: 4px 8px; }
.key { display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle; }
.key.s0 { background: var(--s0); } .key.s1 { background: var(--s1); } .key.s2 { background: var(--s2); }
.key.s3 { background: var(--s3); } .key.s4 { background: var(--s4); } .key.s5 { background: var(--s5); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; background: var(--card); }
th, td { padding: 5px 12px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 12.5px; } th:first-child, td:first-child { text-align: left; }
td.value { font-weight: 650; } td.bar { padding: 0 12px; } .bar svg { display: block; width: 190px; height: 20px; }
.bar .track { fill: var(--rule); } .bar .band { fill: var(--band); } .bar .value { fill: var(--s0); }
.bar .chance { stroke: var(--soft); stroke-width: 2; } .bar .blind { stroke: var(--bad); stroke-width: 2; }
.bar .base { stroke: var(--s1); stroke-width: 2; }
.swatch { display: inline-block; width: 3px; height: 12px; margin: 0 4px 0 12px; vertical-align: -1px; }
.maps { display: flex; flex-wrap: wrap; gap: 22px; }
.map { display: grid; justify-content: start; grid-template-columns: auto auto auto; gap: 4px 10px;
  align-items: center; color: var(--soft); font-size: 12.5px; }
.map img { image-rendering: pixelated; display: block; border: 1px solid var(--rule); }
.map .down { writing-mode: vertical-rl; transform: rotate(180deg); text-align: center; }
.map .under { grid-column: 2; text-align: center; }
.scale { display: flex; flex-direction: column; align-items: center; gap: 4px; }
.scale img { width: 14px; height: 200px; border: 0; }
.rows { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 12px; }
.row { display: flex; gap: 14px; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 10px 12px; align-items: flex-start; }
.asked { width: 116px; flex: none; }
.asked small { margin-top: 4px; color: var(--soft); display: block; font-size: 12px; line-height: 1.3; }
.asked img { width: 72px; height: 72px; } .asked q { font-weight: 600; quotes: none; overflow-wrap: anywhere; }
.row img { border-radius: 6px; display: block; background: #fff; }
ol.texts { margin: 0; padding: 0; list-style: none; flex: 1; min-width: 0; font-size: 13.5px; }
ol.texts li { display: flex; justify-content: space-between; gap: 10px; padding: 1px 7px; border-radius: 4px; }
ol.texts li span { overflow: hidden; text-overflow: ellipsis; }
ol.texts b, .pics b { font-weight: 500; color: var(--soft); font-variant-numeric: tabular-nums; }
li.right { background: var(--good-bg); color: var(--good); font-weight: 600; }
.pics { display: flex; gap: 8px; flex-wrap: wrap; }
.pics div { text-align: center; font-size: 12px; line-height: 1.35; }
.pics img { width: 60px; height: 60px; border: 2px solid transparent; } .pics .right img { border-color: var(--good); }
details summary { cursor: pointer; color: var(--soft); }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px; overflow-x: auto;
  font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
"""
