import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Add } from '../../types/collector'
import type { CollectorParts, RequestLine } from '../collect/parts'
import { RequestTasks } from '../collect/request-tasks'
import type { Line } from '../run/line'
import type { ScopeMaker } from '../run/scopes'
import { FST_BGT_AWILIX_ORDER } from '../shared/errors'
import { kResolver, kTasks } from '../shared/symbols'
import type { Container, Resolver } from './container'
import { LateTasks } from './late-tasks'
import { DiLease } from './lease'

/* The bridge to awilix. It uses the containers that `@fastify/awilix` makes, and loads neither package. */

interface Slots {
  [kTasks]: null | FastifyReply | RequestTasks
  [kResolver]: null | CollectorResolver
}

/**
 * Connects to `@fastify/awilix`; `null` if it is not registered in this context or one around it.
 * @param app with `asyncContext`, the value of `backgroundTasks` in the root container; request scopes register nothing then
 */
export function bridgeTo (fastify: FastifyInstance, parts: CollectorParts, app: Add | null): DiBridge | null {
  if (!hasAwilix(fastify)) return null
  return new DiBridge(parts, (fastify as unknown as { diContainer: Container }).diContainer, app)
}

/**
 * Fails the start if `@fastify/awilix` is registered too late, or in an inner context: its scopes would lack the collector.
 */
export function assertAwilixOrder (fastify: FastifyInstance, di: DiBridge | null): void {
  if (di !== null) return
  const instances = [fastify]
  fastify.addHook('onRegister', instance => { instances.push(instance as FastifyInstance) })
  fastify.addHook('onReady', function backgroundTasksAwilixOrder (done) {
    done(instances.some(hasAwilix) ? new FST_BGT_AWILIX_ORDER() : undefined)
  })
}

function hasAwilix (fastify: FastifyInstance): boolean {
  return fastify.hasRequestDecorator('diScope') && fastify.hasDecorator('diContainer')
}

/** Registers the collector in the request's DI scope, and keeps the scope alive while the request's tasks need it. Made at registration. */
export class DiBridge implements ScopeMaker {
  readonly #parts: CollectorParts
  readonly #root: Container
  readonly #app: Add | null

  constructor (parts: CollectorParts, root: Container, app: Add | null) {
    this.#parts = parts
    this.#root = root
    this.#app = app
    if (app === null) return
    root.register({ backgroundTasks: { lifetime: 'SINGLETON', resolve: () => app } })
    // A container that several applications share would still return the value of the earlier one.
    root.cache.delete('backgroundTasks')
  }

  /** Registers `backgroundTasks` in the request's scope, from which its child scopes inherit. */
  register (request: FastifyRequest): void {
    const scope = scopeOf(request)
    if (scope === null) return
    const resolver = new CollectorResolver(this.#parts, scope, request)
    ;(request as unknown as Slots)[kResolver] = resolver
    scope.register({ backgroundTasks: resolver })
  }

  /**
   * Detaches the scope from an answered request that has no collector: V8 keeps what a container refers to until a full garbage
   * collection. See docs/design.md, "A DI scope is leased".
   */
  answered (request: FastifyRequest, reply: FastifyReply): void {
    const { [kTasks]: slot, [kResolver]: resolver } = request as unknown as Slots
    // A cancelled HTTP/2 stream comes here too, with its handler still at work.
    if (resolver !== null && reply.raw.writableEnded && !(slot instanceof RequestTasks)) resolver.detach(request.id, reply.statusCode)
  }

  /**
   * Attaches the scope to its request again when the request makes a collector, so that both return the same one. Returns the collector
   * that the scope has made in the meantime, or `null`.
   */
  reattach (request: FastifyRequest): RequestTasks | null {
    return (request as unknown as Slots)[kResolver]?.reattach(request) ?? null
  }

  /** Keeps the request's scope from being disposed until the lease ends; `null` without a scope. */
  lease (line: RequestLine): DiLease | null {
    const scope = scopeOf(line.request)
    return scope === null ? null : new DiLease(this.#parts.engine, scope, line, line.exchange.gone)
  }

  /** Makes a DI scope for one attempt of a defined task. */
  createScope (line: Line): Container {
    const scope = this.#root.createScope()
    if (this.#app === null) scope.register({ backgroundTasks: { lifetime: 'SCOPED', resolve: () => line.collector } })
    return scope
  }
}

class CollectorResolver implements Resolver {
  readonly #parts: CollectorParts
  readonly #scope: Container
  #request: FastifyRequest | null
  /** The request's id and status code, kept after {@link detach}. */
  #requestId = ''
  #statusCode = 0
  #late: LateTasks | null = null

  constructor (parts: CollectorParts, scope: Container, request: FastifyRequest) {
    this.#parts = parts
    this.#scope = scope
    this.#request = request
  }

  get lifetime (): 'SCOPED' {
    return 'SCOPED'
  }

  resolve (): unknown {
    if (this.#request !== null) return this.#request.backgroundTasks
    this.#late ??= new LateTasks(this.#parts, this.#scope, this.#requestId, this.#statusCode)
    return this.#late
  }

  detach (requestId: string, statusCode: number): void {
    this.#requestId = requestId
    this.#statusCode = statusCode
    this.#request = null
  }

  reattach (request: FastifyRequest): LateTasks | null {
    this.#request = request
    return this.#late
  }
}

function scopeOf (request: FastifyRequest): Container | null {
  return (request as unknown as { diScope?: Container | null }).diScope ?? null
}
