import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core'
import type { Test } from 'tap'
import { findBinary } from './services'

/* A real browser, without a window: the system's own. */

const NAMES = ['chromium', 'chromium-browser', 'google-chrome']
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']

const executablePath = NAMES.map(name => findBinary(name)).find(path => path !== undefined)

/** Why a test that needs a browser cannot run, or `false`. */
export const noBrowser: string | false = executablePath !== undefined
  ? false
  : 'there is no Chromium on this machine: install one (Debian: chromium)'

/** It ends with the test. */
export async function browser (t: Test): Promise<Browser> {
  const launched = await chromium.launch({ executablePath: executablePath as string, args: ARGUMENTS })
  t.teardown(() => launched.close())
  return launched
}

/** A page, and what went wrong in it: errors of its script, and what the console says of them and of the policy. */
export async function open (t: Test, browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<{ page: Page, troubles: string[] }> {
  const context = await browser.newContext(options)
  t.teardown(() => context.close())
  const page = await context.newPage()
  const troubles: string[] = []
  page.on('pageerror', error => { troubles.push(String(error)) })
  page.on('console', message => { if (message.type() === 'error' || message.type() === 'warning') troubles.push(message.text()) })
  page.on('requestfailed', request => { if (!request.url().endsWith('/events')) troubles.push(`${request.url()}: ${request.failure()?.errorText}`) })
  await page.goto(url)
  return { page, troubles }
}
