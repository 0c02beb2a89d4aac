/* The page's style sheet. */

export const STYLE = `
:root {
  color-scheme: light dark;
  --ground: #f6f7f9; --card: #fff; --line: #dfe3e8; --text: #1c2430; --quiet: #596474;
  --accent: #2563a8; --good: #1d7a4b; --bad: #b3261e; --warn: #8a5a00;
  --bad-ground: #fdf0ef; --warn-ground: #fdf6e7;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181d; --card: #1c2229; --line: #303842; --text: #e6eaef; --quiet: #9ba7b4;
    --accent: #7db4f0; --good: #6fcf9b; --bad: #ff9d94; --warn: #eec06a;
    --bad-ground: #38201f; --warn-ground: #352b17;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0; background: var(--ground); color: var(--text); overflow-wrap: anywhere; }
header, main { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: 0 16px; padding-top: 20px; }
h1 { font-size: 1.25rem; margin: 0; }
h2 { font-size: 1rem; margin: 28px 0 8px; }
p { margin: 0; }
main { padding-bottom: 48px; }
.count, .legend { color: var(--quiet); font-weight: 400; }
#connection { color: var(--quiet); font-size: .87rem; }
#connection::before { content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 50%; background: var(--quiet); margin-right: 6px; }
#connection[data-live]::before { background: var(--good); }
#connection[data-lost] { color: var(--bad); font-weight: 600; }
#connection[data-lost]::before { background: var(--bad); }
[data-stale] #summary, [data-stale] .tile { border-style: dashed; }
#summary { margin: 14px 0; padding: 14px 16px; border: 1px solid var(--line); border-left: 4px solid var(--good); border-radius: 6px; background: var(--card); }
#summary[data-mood=warn] { border-left-color: var(--warn); background: var(--warn-ground); }
#summary[data-mood=bad] { border-left-color: var(--bad); background: var(--bad-ground); }
#headline { font-size: 1.15rem; font-weight: 600; }
#reason:not(:empty) { margin-top: 2px; }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); gap: 10px; margin: 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 9px 12px; display: flex; flex-direction: column; justify-content: space-between; }
.tile dt { color: var(--quiet); font-size: .8rem; line-height: 1.25; }
.tile dd { margin: 2px 0 0; font-size: 1.4rem; font-weight: 600; font-variant-numeric: tabular-nums; }
#tile-failed[data-some] dd { color: var(--bad); }
#outcome:not(:empty) { position: sticky; top: 8px; z-index: 1; margin-top: 12px; padding: 8px 12px; border: 1px solid var(--line); border-radius: 6px; background: var(--card); }
#idle { margin-top: 24px; color: var(--quiet); }
.more { color: var(--quiet); font-size: .87rem; margin-top: 6px; }
.notice { max-width: 1120px; margin: 12px auto; padding: 0 20px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
table { width: 100%; border-collapse: separate; border-spacing: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
th, td { text-align: left; vertical-align: top; padding: 8px 12px; border-bottom: 1px solid var(--line); font-weight: 400; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { white-space: nowrap; color: var(--quiet); font-size: .8rem; padding-top: 6px; padding-bottom: 6px; }
td { font-variant-numeric: tabular-nums; }
.task { min-width: 11rem; }
.task b { font-weight: 600; }
.where { display: block; color: var(--quiet); font-size: .8rem; }
.for, .due, .attempt { white-space: nowrap; }
.why { color: var(--quiet); font-size: .87rem; }
.action { text-align: right; width: 1%; white-space: nowrap; }
tr[data-stuck] { background: var(--bad-ground); }
tr[data-late] .for { color: var(--warn); font-weight: 600; }
tr[data-stuck] .for { color: var(--bad); font-weight: 600; }
.progress { min-width: 8rem; }
progress { width: 100%; height: 9px; display: block; margin: 6px 0 2px; accent-color: var(--accent); }
.progress span { font-size: .8rem; color: var(--quiet); }
button { font: inherit; font-size: .87rem; color: var(--accent); background: transparent; border: 1px solid currentColor; border-radius: 5px; padding: 3px 10px; cursor: pointer; }
button:hover { background: var(--accent); color: var(--card); border-color: var(--accent); }
button[aria-disabled] { opacity: .5; cursor: default; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
#failed ul { list-style: none; margin: 0; padding: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
#failed ul:empty { display: none; }
#failed li { display: flex; gap: 12px; align-items: flex-start; justify-content: space-between; padding: 8px 12px; border-bottom: 1px solid var(--line); }
#failed li:last-child { border-bottom: 0; }
#failed details { flex: 1; min-width: 0; }
#failed summary { cursor: pointer; }
#failed .error { color: var(--bad); display: block; }
pre { margin: 8px 0 4px; padding: 10px; max-height: 22rem; overflow: auto; background: var(--ground); border: 1px solid var(--line); border-radius: 5px; font: .8rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; }
figure { margin: 0; padding: 10px 12px 8px; background: var(--card); border: 1px solid var(--line); border-radius: 6px; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; font-size: .87rem; margin-bottom: 6px; }
.legend i { display: inline-block; width: 14px; height: 3px; vertical-align: middle; margin-left: 8px; }
svg { display: block; width: 100%; height: 110px; border-bottom: 1px solid var(--line); border-top: 1px dashed var(--line); }
svg path { fill: none; stroke-width: 1.75; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
path.completed, path.mean { stroke: var(--accent); }
path.failed, path.longest { stroke: var(--bad); }
path.longest { stroke: var(--warn); stroke-dasharray: 4 3; }
i.completed, i.mean { background: var(--accent); }
i.failed { background: var(--bad); }
i.longest { background: var(--warn); }
.scale { display: flex; justify-content: space-between; color: var(--quiet); font-size: .75rem; margin-top: 4px; }
@media (max-width: 760px) {
  header, main { padding-left: 12px; padding-right: 12px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile:last-child { grid-column: 1 / -1; }
  .plots { grid-template-columns: 1fr; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tbody tr, tbody th, tbody td { display: block; }
  tbody tr { padding: 8px 12px; border-bottom: 1px solid var(--line); }
  tbody tr:last-child { border-bottom: 0; }
  tbody th, tbody td { border: 0; padding: 1px 0; width: auto; white-space: normal; text-align: left; }
  tbody td:empty { display: none; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--quiet); }
  td.action { padding-top: 6px; }
  button { padding: 7px 14px; }
  #failed li { flex-direction: column; gap: 6px; }
  #failed details { width: 100%; }
}
@media (prefers-reduced-motion: no-preference) {
  button { transition: background-color .12s; }
}
`
