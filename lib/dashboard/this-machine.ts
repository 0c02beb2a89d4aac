import type { FastifyRequest } from 'fastify'
import { FST_BGT_LOCAL_ONLY } from '../shared/errors'
import { received } from '../shared/show'

/*
 * Without a `preHandler` the page answers this machine alone. The peer's address is not enough: a foreign page can give its
 * own name the address of this machine (DNS rebinding), but a browser tells that name as the host.
 */

const LOOPBACK_PEER = /^(?:::1|(?:::ffff:)?127(?:\.\d+){3})$/
const LOOPBACK_HOST = /^(?:(?:[^:]+\.)?localhost|127(?:\.\d+){3}|\[::1\])(?::\d+)?$/i

/** Headers by which a proxy on this machine says that it asks for another one. */
const FORWARDED = ['forwarded', 'via', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip']

/**
 * Refuses a request that does not come from this machine. The option `trustProxy` plays no part: the peer itself counts.
 * @throws FST_BGT_LOCAL_ONLY
 */
export function assertThisMachine ({ raw, headers }: FastifyRequest): void {
  const peer = raw.socket.remoteAddress
  if (peer === undefined || !LOOPBACK_PEER.test(peer)) throw new FST_BGT_LOCAL_ONLY(`a request from ${peer ?? 'a peer without an address'}`)
  const host = headers[':authority'] ?? headers.host
  if (typeof host !== 'string' || !LOOPBACK_HOST.test(host)) throw new FST_BGT_LOCAL_ONLY(`the host ${received(host)}`)
  const forwarded = FORWARDED.find(name => headers[name] !== undefined)
  if (forwarded !== undefined) throw new FST_BGT_LOCAL_ONLY(`a header '${forwarded}', which a proxy sets`)
}
