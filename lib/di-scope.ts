import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Add } from './add'
import { FST_BGT_AWILIX_ORDER } from './errors'
import { LateTasks } from './late-tasks'
import type { Line } from './line'
import { RequestTasks } from './request-tasks'
import type { Runtime } from './runtime'
import { ScopeLease } from './scope-lease'
import { kResolver, kTasks } from './symbols'

/*
 * The bridge to awilix. It touches the containers that `@fastify/awilix` makes, and loads neither package itself.
 */

/** What is used of an awilix container. */
export interface Container {
  register (resolvers: Record<string, Resolver>): unknown
  createScope (): Container
  dispose (): Promise<void>
  cache: Map<string | symbol, unknown>
}

/** The fields that awilix reads of a resolver. Made by hand, it is lighter than `asValue` and `asFunction`. */
interface Resolver {
  /** A strict container refuses a singleton that asks for something scoped. */
  lifetime: 'SCOPED' | 'SINGLETON'
  resolve (): unknown
}

interface Slots {
  [kTasks]: null | FastifyReply | RequestTasks
  [kResolver]: null | CollectorResolver
}

/**
 * Connects with `@fastify/awilix`, if it is registered around this context.
 * @param door With `asyncContext`, what the root container gets, instead of each request's scope.
 */
export function bridgeTo (fastify: FastifyInstance, runtime: Runtime, door: Add | null): DiBridge | null {
  if (!hasAwilix(fastify)) return null
  return new DiBridge(runtime, (fastify as unknown as { diContainer: Container }).diContainer, door)
}

/**
 * Fails the start where `@fastify/awilix` is registered too late, or in a context further in: its scopes would lack the
 * collector.
 */
export function assertAwilixOrder (fastify: FastifyInstance, di: DiBridge | null): void {
  if (di !== null) return
  const instances = [fastify]
  fastify.addHook('onRegister', instance => { instances.push(instance as FastifyInstance) })
  fastify.addHook('onReady', function backgroundTasksOnReady (done) {
    done(instances.some(hasAwilix) ? new FST_BGT_AWILIX_ORDER() : undefined)
  })
}

function hasAwilix (fastify: FastifyInstance): boolean {
  return fastify.hasRequestDecorator('diScope') && fastify.hasDecorator('diContainer')
}

/** Gives the collector to the request's DI scope, and keeps the scope alive while the request's tasks need it. */
export class DiBridge {
  readonly #runtime: Runtime
  readonly #root: Container
  readonly #door: Add | null

  constructor (runtime: Runtime, root: Container, door: Add | null) {
    this.#runtime = runtime
    this.#root = root
    this.#door = door
    if (door === null) return
    root.register({ backgroundTasks: { lifetime: 'SINGLETON', resolve: () => door } })
    // Where applications share a container, it would go on giving out the door of the one before.
    root.cache.delete('backgroundTasks')
  }

  /** Lets the request's scope, and the scopes made from it, resolve `backgroundTasks`. */
  register (request: FastifyRequest): void {
    const scope = scopeOf(request)
    if (scope === null) return
    const resolver = new CollectorResolver(this.#runtime, scope, request)
    ;(request as unknown as Slots)[kResolver] = resolver
    scope.register({ backgroundTasks: resolver })
  }

  /**
   * Once a request that has no collector is answered, parts its scope from it. V8 gives each awilix container a hidden
   * class of its own, and what the container refers to lives until that is collected, which takes a full garbage
   * collection: with the whole request among it, a request would cost a quarter more.
   */
  answered (request: FastifyRequest, reply: FastifyReply): void {
    const { [kTasks]: slot, [kResolver]: resolver } = request as unknown as Slots
    // A cancelled HTTP/2 stream comes here too, with its handler still at work.
    if (resolver !== null && reply.raw.writableEnded && !(slot instanceof RequestTasks)) resolver.part(request.id, reply.statusCode)
  }

  /**
   * A request is asked for its collector itself, perhaps after it was parted from its scope: joins them again, so that both
   * give out the same. Returns the one that the scope has made meanwhile, if it has.
   */
  rejoin (request: FastifyRequest): RequestTasks | null {
    return (request as unknown as Slots)[kResolver]?.rejoin(request) ?? null
  }

  /** Keeps the request's scope from being disposed, until the lease ends. */
  lease (tasks: RequestTasks): ScopeLease | null {
    const scope = scopeOf(tasks.request)
    return scope === null ? null : new ScopeLease(scope, tasks, tasks.over || tasks.reply.raw.writableFinished)
  }

  /** A scope for one attempt of a defined task. */
  createScope (line: Line): Container {
    const scope = this.#root.createScope()
    if (this.#door === null) scope.register({ backgroundTasks: { lifetime: 'SCOPED', resolve: () => line.door } })
    return scope
  }
}

class CollectorResolver implements Resolver {
  readonly #runtime: Runtime
  readonly #scope: Container
  #request: FastifyRequest | null
  /** What is kept of the request when it is forgotten. */
  #requestId = ''
  #statusCode = 0
  #late: LateTasks | null = null

  constructor (runtime: Runtime, scope: Container, request: FastifyRequest) {
    this.#runtime = runtime
    this.#scope = scope
    this.#request = request
  }

  get lifetime (): 'SCOPED' {
    return 'SCOPED'
  }

  resolve (): unknown {
    if (this.#request !== null) return this.#request.backgroundTasks
    this.#late ??= new LateTasks(this.#runtime, this.#scope, this.#requestId, this.#statusCode)
    return this.#late
  }

  part (requestId: string, statusCode: number): void {
    this.#requestId = requestId
    this.#statusCode = statusCode
    this.#request = null
  }

  rejoin (request: FastifyRequest): LateTasks | null {
    this.#request = request
    return this.#late
  }
}

function scopeOf (request: FastifyRequest): Container | null {
  return (request as unknown as { diScope?: Container | null }).diScope ?? null
}
