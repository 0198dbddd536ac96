"""The style of the page: light and dark by the reader's own setting, printable, readable on a phone."""

CSS = """
:root{--ink:#1b1f24;--dim:#57606a;--paper:#ffffff;--panel:#f4f6f8;--line:#d0d7de;--a:#0a58ca;--b:#a33d00;--c:#5b3fa8;
--d:#00695c;--slow:#b3261e;--slowfill:#f6c9c5;--okfill:#cfe8d5;--ok:#17692f}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9aa7b4;--paper:#0d1117;--panel:#161b22;--line:#30363d;
--a:#79b8ff;--b:#ffa657;--c:#d2a8ff;--d:#56d4bc;--slow:#ff8d85;--slowfill:#5a1d1a;--okfill:#12361f;--ok:#6fdd8b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main,header,footer{max-width:76rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.35rem;margin:1.2rem 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.3rem 0}
a{color:var(--a)}
a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--a);outline-offset:2px}
.dim{color:var(--dim)}
.verdict{background:var(--panel);border-left:.4rem solid var(--ok);padding:.7rem 1rem;border-radius:.3rem;
margin:.8rem 0}
.verdict.bad{border-color:var(--slow)}
.verdict p:first-child{font-weight:600;font-size:1.08rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;margin:.8rem 0;padding:0}
.cards div{background:var(--panel);border-radius:.3rem;padding:.5rem .7rem}
.cards dt{color:var(--dim);font-size:.85rem}
.cards dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
.chart{position:relative;margin:.4rem 0 1.6rem}
.chart svg{display:block;width:100%;height:11rem;background:var(--panel);border-radius:.3rem}
.chart.low svg{height:5.5rem}
.chart .top{display:block;font-size:.85rem;color:var(--dim)}
.chart .ends{display:flex;justify-content:space-between;font-size:.8rem;color:var(--dim)}
.line{fill:none;stroke-width:1.6;vector-effect:non-scaling-stroke}
.band{fill:var(--slowfill)}
.band.none{fill:var(--okfill)}
.band.work{fill:var(--line)}
.tick{stroke:var(--slow);stroke-width:1.5;vector-effect:non-scaling-stroke}
.tick.run{stroke:var(--a)}
.plane{margin:.4rem 0 1.6rem}
.plane .top{display:block;font-size:.85rem;color:var(--dim);margin-bottom:.3rem}
.field{position:relative;height:22rem;background:var(--panel);border-radius:.3rem}
.field svg{display:block;width:100%;height:100%}
.grid{stroke:var(--line);stroke-width:1;vector-effect:non-scaling-stroke}
.line.bar{stroke-width:1}
.limit{stroke:var(--slow);stroke-width:1.5;stroke-dasharray:6 5;vector-effect:non-scaling-stroke}
.dot{position:absolute;width:.6rem;height:.6rem;margin:0 0 -.3rem -.3rem;border-radius:50%}
.dot.chosen{outline:.22rem solid var(--ink);outline-offset:.16rem;border-radius:50%}
.ups span{position:absolute;left:.3rem;margin-bottom:.05rem;font-size:.78rem;color:var(--dim)}
.acrosses{position:relative;height:1.3rem;font-size:.78rem;color:var(--dim)}
.acrosses span{position:absolute;transform:translateX(-50%)}
.acrosses span:first-child{transform:none}
tr.chosen td{font-weight:600;background:var(--okfill)}
.bars rect{fill:var(--a)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .55rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,th.text,td.text{text-align:left}
td{vertical-align:top}
td.text{white-space:normal;min-width:14rem;overflow-wrap:anywhere}
caption{text-align:left}
th{color:var(--dim);font-weight:600}
tr:target{background:var(--okfill)}
.share{display:flex;height:1.4rem;border-radius:.2rem;overflow:hidden;min-width:12rem;border:1px solid var(--line)}
.share i{display:block}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem;list-style:none;padding:0;margin:.3rem 0}
.key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.3rem;border-radius:.15rem;
border:1px solid var(--line)}
.c0{background:var(--a);stroke:var(--a)}.c1{background:var(--b);stroke:var(--b)}.c2{background:var(--c);stroke:var(--c)}
.c3{background:var(--d);stroke:var(--d)}.c4{background:var(--line);stroke:var(--dim)}
.slow{color:var(--slow)}
ul.evidence{margin:.2rem 0;padding-left:1.1rem}
@media print{body{font-size:11px}.chart svg,.verdict,.cards div{background:none;border:1px solid var(--line)}
h2{break-after:avoid}section{break-inside:avoid-page}.scroll{overflow:visible}details{display:block}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
