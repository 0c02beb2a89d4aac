/* The page's document. What is in it comes from the stream: it has nothing to fill in. */

function table (id: string, title: string, columns: string[]): string {
  const heads = columns.map(column => `<th scope="col" role="columnheader">${column}</th>`).join('')
  return `
    <section id="${id}" aria-labelledby="${id}-title" hidden>
      <h2 id="${id}-title">${title} <span class="count"></span></h2>
      <table role="table" aria-labelledby="${id}-title">
        <thead role="rowgroup"><tr role="row">${heads}</tr></thead>
        <tbody role="rowgroup"></tbody>
      </table>
      <p class="more" hidden></p>
    </section>`
}

function tile (id: string, title: string): string {
  return `<div class="tile" id="${id}"><dt>${title}</dt><dd>–</dd></div>`
}

function plot (id: string, title: string, legend: string): string {
  return `
      <figure id="${id}">
        <figcaption>${title} <span class="legend">${legend}</span></figcaption>
        <svg role="img" aria-label="${title}" viewBox="0 0 600 120" preserveAspectRatio="none"></svg>
        <div class="scale" aria-hidden="true"><span>5 min ago</span><span class="top"></span><span>now</span></div>
      </figure>`
}

export const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>Background tasks</title>
    <link rel="icon" href="icon.svg" type="image/svg+xml">
    <link rel="stylesheet" href="page.css">
    <script src="page.js" defer></script>
  </head>
  <body>
    <header>
      <h1>Background tasks</h1>
      <p id="connection" role="status">Connecting …</p>
    </header>
    <noscript><p class="notice">This page needs JavaScript: what it shows changes every second.</p></noscript>
    <main>
      <div id="summary" data-mood="calm"><p id="headline">–</p><p id="reason"></p></div>
      <dl class="tiles">
        ${tile('tile-running', 'Running')}
        ${tile('tile-waiting', 'Waiting')}
        ${tile('tile-later', 'To be tried again, or delayed')}
        ${tile('tile-failed', 'Failed lately')}
        ${tile('tile-rate', 'Completed per second')}
      </dl>
      <p id="backend" class="more" hidden></p>
      <p id="outcome" role="status" tabindex="-1"></p>
      <p id="news" class="unseen" aria-live="polite"></p>
      ${table('running', 'Running', ['Task', 'For', 'Attempt', 'Progress', 'Notes', 'Action'])}
      ${table('later', 'To be tried again, or delayed', ['Task', 'Due', 'Attempt', 'Why', 'Action'])}
      ${table('waiting', 'Waiting', ['Task', 'For', 'Why', 'Action'])}
      <p id="idle" hidden>Nothing runs and nothing waits.</p>
      <section id="failed" aria-labelledby="failed-title">
        <h2 id="failed-title">Failed lately <span class="count"></span></h2>
        <ul></ul>
        <p class="more">None.</p>
      </section>
      <section id="plots" aria-labelledby="plots-title">
        <h2 id="plots-title">The last five minutes of this process</h2>
        <div class="plots">
        ${plot('plot-rate', 'Tasks per second', '<i class="completed"></i> completed <i class="failed"></i> failed')}
        ${plot('plot-queue', 'Time in the queue', '<i class="mean"></i> mean <i class="longest"></i> longest')}
        </div>
      </section>
    </main>
  </body>
</html>
`

export const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3.5" fill="#2563a8"/><path d="M4 5h8M4 8h5M4 11h6.5" stroke="#fff" stroke-width="1.6" stroke-linecap="round"/></svg>
`
