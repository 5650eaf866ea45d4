"""The report's style sheet: light and dark by the reader's setting, one column on a phone, nothing from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --page:#fff; --card:#f6f7f9; --text:#16181d; --dim:#5c6370; --line:#d9dde3;
  --accent:#1f5fd0; --soft:#1f5fd033; --good:#1a7f4b; --bad:#b3261e; --late:#b25e00; --gray:#9aa1ab; }
@media (prefers-color-scheme: dark) { :root { --page:#14161a; --card:#1d2026; --text:#e8eaed; --dim:#a0a7b3; --line:#343a44;
  --accent:#7aa7ff; --soft:#7aa7ff33; --good:#6cd39b; --bad:#ff8a80; --late:#ffb25c; --gray:#666d78; } }
* { box-sizing: border-box; }
body { margin:0 auto; padding:24px 16px 64px; max-width:1120px; background:var(--page); color:var(--text);
  font:16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap:anywhere; }
h1 { font-size:15px; font-weight:500; color:var(--dim); margin:0 0 8px; }
h2 { font-size:20px; margin:44px 0 4px; }
h3 { font-size:16px; margin:0; }
p { margin:6px 0; } .dim { color:var(--dim); font-size:14px; }
.headline { font-size:clamp(20px, 3.2vw, 30px); line-height:1.3; font-weight:650; margin:0 0 12px; text-wrap:balance; }
.warnings { border-left:4px solid var(--late); background:var(--card); padding:8px 14px; margin:16px 0; font-size:14px; }
.warnings ul { margin:2px 0; padding-left:18px; }
svg { display:block; width:100%; height:auto; font-family:inherit; }
svg text { fill:var(--text); font-size:12px; } svg .tick, svg .title, svg .note { fill:var(--dim); font-size:11.5px; }
.axis { stroke:var(--dim); } .grid { stroke:var(--line); } .visible { stroke:var(--late); stroke-dasharray:5 4; }
.budget { stroke:var(--good); stroke-width:1.5; }
.front { fill:none; stroke:var(--accent); stroke-width:1.5; } .interval { stroke:var(--accent); stroke-width:2; }
.marker { fill:var(--accent); fill-opacity:.45; stroke:var(--accent); stroke-width:1.5; }
.interval.dominated { stroke:var(--gray); } .marker.dominated { fill:var(--gray); stroke:var(--gray); }
svg .label { font-weight:600; paint-order:stroke; stroke:var(--page); stroke-width:4px; stroke-linejoin:round; }
svg .label.dominated { fill:var(--dim); font-weight:400; } .leader { stroke:var(--gray); }
.bar { fill:var(--accent); fill-opacity:.75; } .mark { stroke-width:1.5; }
.mark.p50 { stroke:var(--text); } .mark.p90 { stroke:var(--late); stroke-dasharray:4 3; } svg .note.p90 { fill:var(--late); }
.narrow { display:none; }
.cards { display:grid; grid-template-columns:repeat(auto-fill, minmax(min(310px, 100%), 1fr)); gap:16px; margin-top:12px; }
.card { background:var(--card); border-radius:8px; padding:12px 14px; min-width:0; }
.photos { display:grid; grid-template-columns:repeat(3, 1fr); gap:8px; margin:8px 0 0; }
.photos figure { margin:0; } .photos img { display:block; width:100%; border-radius:4px; }
.photos figcaption { font-size:12px; color:var(--dim); line-height:1.35; margin-top:4px; }
.wide-cards { grid-template-columns:repeat(auto-fill, minmax(min(480px, 100%), 1fr)); }
table { border-collapse:collapse; width:100%; margin-top:12px; font-size:13.5px; font-variant-numeric:tabular-nums; }
th, td { text-align:right; padding:7px 6px; border-bottom:1px solid var(--line); vertical-align:top; }
th { color:var(--dim); font-weight:500; vertical-align:bottom; }
th:first-child, td:first-child { text-align:left; padding-left:0; } td:first-child { font-weight:600; }
td small { display:block; color:var(--dim); font-size:12px; } td { overflow-wrap:normal; }
.faster { color:var(--good); } .slower, .failed { color:var(--bad); }
dl { display:grid; grid-template-columns:minmax(120px, max-content) 1fr; gap:4px 16px; font-size:14px; margin:12px 0; }
dt { color:var(--dim); } dd { margin:0; }
pre { background:var(--card); border-radius:8px; padding:10px 12px; font-size:13px; white-space:pre-wrap; margin:4px 0 14px;
  font-family:ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
@media (max-width:760px) {
  body { padding-top:16px; } .wide { display:none; } .narrow { display:block; }
  table, tbody, tr, td { display:block; } thead { display:none; }
  tr { background:var(--card); border-radius:8px; padding:10px 14px; margin-bottom:12px; }
  td { display:flex; justify-content:space-between; gap:16px; border:0; padding:2px 0; } td::before { content:attr(data-label);
    color:var(--dim); white-space:nowrap; } td > span { text-align:right; } td:first-child { font-size:16px; }
  td:first-child::before { content:none; } td.empty { display:none; }
  dl { grid-template-columns:1fr; gap:0; } dd { margin-bottom:8px; }
}
@media print { .card, tr, figure { break-inside:avoid; } }
"""
