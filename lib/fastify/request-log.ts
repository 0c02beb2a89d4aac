import type { FastifyInstance } from 'fastify'
import type { LogOf } from '../../types/backend'

/** The loggers of requests that this process may never have seen, by request id. */
export function requestLogs (fastify: FastifyInstance): LogOf {
  const { log } = fastify
  const label = requestIdLogLabel(fastify)
  return requestId => requestId === null ? log : log.child({ [label]: requestId })
}

/**
 * The field of log lines that holds the request id. Fastify publishes its old option in `initialConfig`, but the new one, `logController`,
 * only under a symbol (Fastify 5).
 */
export function requestIdLogLabel (fastify: Pick<FastifyInstance, 'initialConfig'>): string {
  for (let instance: any = fastify; instance !== null; instance = Object.getPrototypeOf(instance)) {
    const symbol = Object.getOwnPropertySymbols(instance).find(({ description }) => description === 'fastify.logController')
    const label = symbol && instance[symbol].requestIdLogLabel
    if (typeof label === 'string') return label
  }
  return fastify.initialConfig.requestIdLogLabel as string
}
