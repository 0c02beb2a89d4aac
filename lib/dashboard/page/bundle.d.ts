import type { Plugin } from 'esbuild'

export function bundlePage (): { SCRIPT: string, STYLE: string }
export const assetsPlugin: Plugin
