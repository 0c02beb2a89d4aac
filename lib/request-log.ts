import type { FastifyBaseLogger, FastifyInstance } from 'fastify'

/** The logger for lines about the tasks of a request that this process may never have seen; of the application without one. */
export type LogOf = (requestId: string | null) => FastifyBaseLogger

export function requestLogs (fastify: FastifyInstance): LogOf {
  const { log } = fastify
  const label = requestIdLogLabel(fastify)
  return requestId => requestId === null ? log : log.child({ [label]: requestId })
}

/**
 * Under what name a request's logger shows its id. Fastify tells of its old option for that, but not of `logController`,
 * which takes its place: that is to be found under a symbol alone.
 */
export function requestIdLogLabel (fastify: Pick<FastifyInstance, 'initialConfig'>): string {
  for (let instance: any = fastify; instance !== null; instance = Object.getPrototypeOf(instance)) {
    const symbol = Object.getOwnPropertySymbols(instance).find(({ description }) => description === 'fastify.logController')
    const label = symbol && instance[symbol].requestIdLogLabel
    if (typeof label === 'string') return label
  }
  return fastify.initialConfig.requestIdLogLabel as string
}
