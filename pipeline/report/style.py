"""The look of the report: style sheets, and colours that colour-blind readers can tell apart."""

TABLE_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1c2330;
  background: #fff; margin: 1.5rem auto; max-width: 1340px; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
.scroll { overflow-x: auto; margin: 1rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.scores { border-top: 2px solid #1c2330; border-bottom: 2px solid #1c2330; font-size: 13px; }
table.scores thead th { border-bottom: 1px solid #1c2330; font-weight: 600; padding: .4em .45em;
  vertical-align: bottom; text-align: right; white-space: nowrap; }
table.scores.per_class thead th.class { padding: .4em 0; text-align: center; }
table.scores.per_class thead th.class span { writing-mode: vertical-rl; transform: rotate(180deg);
  display: inline-block; text-align: left; }
table.scores tbody th { text-align: left; font-weight: 600; white-space: nowrap;
  vertical-align: top; padding: .4em .9em .4em .3em; position: sticky; left: 0; background: #fff;
  background-clip: padding-box; }
table.scores td { text-align: right; padding: .4em .45em; white-space: nowrap;
  vertical-align: top; }
table.scores td.class { text-align: center; padding: .4em .22em; }
table.scores tr.paper td, table.scores tr.to_paper td, table.scores tr.reference td {
  font-size: 12px; }
table.scores tr.section th { text-align: center; border-top: 1px solid #1c2330;
  border-bottom: 1px solid #1c2330; padding: .45em; position: static; background: #f3f6fa; }
table.scores thead + tbody tr.section:first-child th { border-top: 0; }
table.scores tr.reference th { font-weight: 400; }
table.scores tr.reference td, table.scores tr.reference th { color: #4d5766; font-style: italic;
  padding-top: .1em; padding-bottom: .1em; }
table.scores tr.reference + tr.measured th, table.scores tr.reference + tr.measured td {
  border-top: 1px solid #d5dae2; }
table.scores.grid th.mean, table.scores.grid td.mean, table.scores.cost th.mean,
table.scores.cost td.mean { padding-left: 1.4em; }
table.scores td small { color: #5c6675; font-size: 10px; }
table.scores td small { display: block; line-height: 1.1; }
table.scores.per_class td.mean { background: #f3f6fa; }
table.scores tr.paper th, table.scores tr.to_paper th { font-weight: 400; padding-left: 1.3em; }
table.scores tr.paper td, table.scores tr.paper th,
table.scores tr.to_paper td, table.scores tr.to_paper th { color: #4d5766; font-style: italic;
  padding-top: 0; }
table.scores tr.measured + tr.difference th, table.scores tr.measured + tr.difference td,
table.scores tr.to_paper + tr.difference th, table.scores tr.to_paper + tr.difference td,
table.scores tr.measured + tr.ratio th, table.scores tr.measured + tr.ratio td,
table.scores tr.paper + tr.ratio th, table.scores tr.paper + tr.ratio td {
  border-top: 1px solid #1c2330; }
table.scores tr.difference th, table.scores tr.ratio th { font-weight: 400; }
table.scores th sup { font-weight: 400; line-height: 0; }
table.scores td.absent { color: #8a93a0; }
table.scores u { text-underline-offset: 2px; }
ul.notes { margin: .25rem 0 1.25rem; padding-left: 1.1rem; color: #4d5766; font-size: 12.5px;
  line-height: 1.45; }
@media print { .scroll { overflow: visible; } body { margin: 0; max-width: none; padding: 0; }
  table.scores { font-size: 8.5pt; } table.scores td small { font-size: 6.5pt; } }
"""

PAGE_CSS = """
h2 { font-size: 1.25rem; margin: 2.75rem 0 .4rem; padding-top: .9rem;
  border-top: 1px solid #d5dae2; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { max-width: 110ch; margin: .4rem 0; }
nav { margin: .75rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
a { color: #0b5cad; }
.status { display: inline-block; font-size: 12.5px; border-radius: 3px; padding: .1em .6em;
  background: #e8f1ea; color: #1d5a2f; }
.status.open { background: #fff1d6; color: #7a4b00; }
.finding { border-left: 3px solid #0072b2; padding: .15rem 0 .15rem .8rem; margin: .6rem 0; }
.answers { max-width: 110ch; margin: .6rem 0; padding: .5rem .9rem .5rem 1.9rem;
  background: #eef4f9; border-left: 3px solid #0072b2; }
figure { margin: 1.25rem 0; break-inside: avoid; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #4d5766; font-size: 12.5px; margin-top: .3rem; max-width: 90ch; }
.figures { display: grid; gap: 1.25rem 1.5rem; align-items: start; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); }
.figures figure { margin: 0; max-width: 760px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 1rem; }
.panels figure { margin: 0; }
.panels img { width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem .9rem; padding: 0; margin: .5rem 0 1rem;
  list-style: none; font-size: 12.5px; }
.legend i { display: inline-block; width: 1em; height: 1em; margin-right: .35em;
  vertical-align: -.12em; border: 1px solid #0003; }
table.plain { font-size: 12.5px; width: 100%; border-top: 1px solid #1c2330;
  border-bottom: 1px solid #1c2330; }
table.plain th { text-align: left; }
table.plain thead th, table.about th, table.about td { border-bottom: 1px solid #d5dae2; }
table.plain th, table.plain td { padding: .25em .9em .25em 0; vertical-align: top; }
table.plain .number { text-align: right; padding-right: 1.8em; }
table.about th { width: 9em; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
@media print { @page { size: A4 landscape; margin: 12mm; } nav { display: none; }
  body { font-size: 10pt; } h2, h3 { break-after: avoid; }
  section.experiment { break-before: page; }
  section.experiment:first-of-type { break-before: auto; }
  p, figcaption { max-width: none; } .figures { display: block; }
  .figures figure { margin: 0 0 4mm; max-width: none; } .figures img { width: 165mm; }
  .panels { grid-template-columns: 1fr 1fr; } tr { break-inside: avoid; }
  a { color: inherit; text-decoration: none; } }
"""

# Okabe and Ito's colours (jfly.uni-koeln.de/color), ordered so that neighbours differ in lightness.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#1c2330", "#b8a500")
LINES = ("-", "--", "-.", ":")
ONE_HOT, ECOC = "#e69f00", "#0072b2"
INK, FAINT = "#1c2330", "#d5dae2"
