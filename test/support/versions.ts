import * as awilix from 'awilix'
import * as fastify from 'fastify'

/* What the lowest versions of the peers do not have: why a test of it cannot run, or `false`. */

const isOld = !('FST_ERR_HANDLER_TIMEOUT' in fastify.errorCodes)

export const noHandlerTimeout: string | false = isOld &&
  'this version of Fastify has no handlerTimeout'

export const noSecondReply: string | false = isOld &&
  'this version of Fastify, with an async onSend hook, does not outlive a second reply'

export const noHttp2Trailers: string | false = isOld &&
  'this version of Fastify sends trailers on HTTP/2 as on HTTP/1'

export const noLogController: string | false = 'LogController' in fastify
  ? false
  : 'this version of Fastify has no logController'

export const noStrictContainer: string | false = 'AwilixRegistrationError' in awilix
  ? false
  : 'this version of awilix has no strict containers'

const [major, minor] = (require('bullmq/package.json') as { version: string }).version.split('.').map(Number) as [number, number]

/** `obliterate` and others keep writers out of a queue, on Postgres. */
export const noQueueLock: string | false = major > 6 || minor >= 7
  ? false
  : 'this version of BullMQ locks no queue on Postgres'
