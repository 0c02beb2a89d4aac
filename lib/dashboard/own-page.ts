import type { FastifyRequest } from 'fastify'
import { FST_BGT_FOREIGN_PAGE } from '../shared/errors'
import { received } from '../shared/show'

/** The header of all requests of the page: no form or image can send it, and no foreign page without this server's consent. */
export const OWN_PAGE_HEADER = 'x-background-tasks-dashboard'

/**
 * Refuses a request that a foreign page makes a browser send with the user's credentials.
 * @throws FST_BGT_FOREIGN_PAGE
 */
export function assertOwnPage ({ headers, host }: FastifyRequest): void {
  if (headers[OWN_PAGE_HEADER] === undefined) throw new FST_BGT_FOREIGN_PAGE(`no header '${OWN_PAGE_HEADER}'`)
  const site = headers['sec-fetch-site']
  // The browser sets this header; no page can change it.
  if (site !== undefined) {
    if (site !== 'same-origin') throw new FST_BGT_FOREIGN_PAGE(`'sec-fetch-site: ${String(site)}'`)
    return
  }
  // Without TLS a browser sends the origin only.
  const { origin } = headers
  if (origin !== undefined && !isOf(origin, host)) throw new FST_BGT_FOREIGN_PAGE(`the origin ${received(origin)}`)
}

function isOf (origin: string, host: string): boolean {
  return origin === `http://${host}` || origin === `https://${host}`
}
