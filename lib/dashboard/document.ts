/* The page's document. Its script makes the content. */

export const DOCUMENT = `<!doctype html>
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
    <noscript><p class="notice">This page needs JavaScript: what it shows changes every second.</p></noscript>
    <div id="app"></div>
  </body>
</html>
`

export const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3.5" fill="#2563a8"/><path d="M4 5h8M4 8h5M4 11h6.5" stroke="#fff" stroke-width="1.6" stroke-linecap="round"/></svg>
`
