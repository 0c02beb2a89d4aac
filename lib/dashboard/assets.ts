/*
 * The page's script and style sheet, as a browser gets them: bundled from `page/` when they are first asked for. In the built package
 * this file has their text instead.
 */

const { bundlePage } = require('./page/bundle') as { bundlePage (): { SCRIPT: string, STYLE: string } }

export const { SCRIPT, STYLE } = bundlePage()
