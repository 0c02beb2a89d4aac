import type { FastifyRequest } from 'fastify'
import { FST_BGT_FOREIGN_PAGE } from '../errors'
import { received } from '../received'

/** What the page adds to its actions. No form can send it, and no foreign page without asking first. */
export const ACTION_HEADER = 'x-background-tasks-dashboard'

/**
 * Refuses an action that another page has had a browser send along with the user's credentials.
 * @throws FST_BGT_FOREIGN_PAGE
 */
export function assertOwnPage ({ headers, host }: FastifyRequest): void {
  if (headers[ACTION_HEADER] === undefined) throw new FST_BGT_FOREIGN_PAGE(`no header '${ACTION_HEADER}'`)
  const site = headers['sec-fetch-site']
  // What a browser says of itself, no page can change.
  if (site !== undefined) {
    if (site !== 'same-origin') throw new FST_BGT_FOREIGN_PAGE(`'sec-fetch-site: ${String(site)}'`)
    return
  }
  // Without TLS, only the origin is told. What is not a browser says neither, and can be made to do nothing by a page.
  const { origin } = headers
  if (origin !== undefined && !isOf(origin, host)) throw new FST_BGT_FOREIGN_PAGE(`the origin ${received(origin)}`)
}

function isOf (origin: string, host: string): boolean {
  return origin === `http://${host}` || origin === `https://${host}`
}
