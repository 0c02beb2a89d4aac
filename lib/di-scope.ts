import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Add } from './add'
import { FST_BGT_AWILIX_ORDER } from './errors'
import type { Line } from './line'
import type { ResolvedOptions } from './options'
import type { Outcome } from './outcome'
import type { RequestTasks } from './request-tasks'

/*
 * The bridge to awilix. It touches the containers that `@fastify/awilix` makes, and loads neither package itself.
 */

/** What is used of an awilix container. */
export interface Container {
  register (name: string, resolver: Resolver): unknown
  createScope (): Container
  dispose (): Promise<void>
  cache: Map<string | symbol, unknown>
}

/** The three fields that awilix reads of a resolver. Made by hand, it is lighter than `asValue` and `asFunction`. */
interface Resolver {
  /** A strict container refuses a singleton that asks for something scoped. */
  lifetime: 'SCOPED' | 'SINGLETON'
  resolve (): unknown
}

const NAME = 'backgroundTasks'

/**
 * Connects with `@fastify/awilix`, if it is registered around this context.
 * @param door With `asyncContext`, what the root container gets, instead of each request's scope.
 */
export function bridgeTo (fastify: FastifyInstance, { disposeScopes }: ResolvedOptions, door: Add | null): DiBridge | null {
  if (!fastify.hasRequestDecorator('diScope')) return null
  return new DiBridge((fastify as unknown as { diContainer: Container }).diContainer, disposeScopes, door)
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
    const tooLate = instances.some(instance => instance.hasRequestDecorator('diScope'))
    done(tooLate ? new FST_BGT_AWILIX_ORDER() : undefined)
  })
}

/** Gives the collector to the request's DI scope, and keeps the scope alive while the request's tasks need it. */
export class DiBridge {
  readonly #root: Container
  readonly #disposeScopes: boolean
  readonly #door: Add | null

  constructor (root: Container, disposeScopes: boolean, door: Add | null) {
    this.#root = root
    this.#disposeScopes = disposeScopes
    this.#door = door
    if (door === null) return
    root.register(NAME, { lifetime: 'SINGLETON', resolve: () => door })
    // Where applications share a container, it would go on giving out the door of the one before.
    root.cache.delete(NAME)
  }

  /** Lets the request's scope, and the scopes made from it, resolve `backgroundTasks`. */
  register (request: FastifyRequest): void {
    scopeOf(request)?.register(NAME, new CollectorResolver(request))
  }

  /**
   * Keeps the request's scope from being disposed, until the returned function is called. Meanwhile its `dispose`
   * notes the wish and resolves at once, so that no hook waits for the tasks.
   */
  lease (tasks: RequestTasks): (() => void) | null {
    const scope = scopeOf(tasks.request)
    if (scope === null) return null
    const { dispose } = scope
    // Once the response has left, whoever disposes scopes has done so: what is resolved from now on is left to us.
    const late = tasks.over
    let wished = false
    scope.dispose = () => {
      wished = true
      return Promise.resolve()
    }
    return () => {
      scope.dispose = dispose
      if (wished || (this.#disposeScopes && (late || (tasks.outcome as Outcome).aborted))) this.dispose(scope, tasks)
    }
  }

  /** A scope for one attempt of a defined task. */
  createScope (line: Line): Container {
    const scope = this.#root.createScope()
    if (this.#door === null) scope.register(NAME, { lifetime: 'SCOPED', resolve: () => line.door })
    return scope
  }

  dispose (scope: Container, line: Line): void {
    const failed = (err: unknown) => line.log.error({ err }, 'disposing a DI scope after its background tasks failed')
    try {
      scope.dispose().catch(failed)
    } catch (err) {
      failed(err)
    }
  }
}

class CollectorResolver implements Resolver {
  readonly lifetime = 'SCOPED'
  readonly #request: FastifyRequest

  constructor (request: FastifyRequest) {
    this.#request = request
  }

  resolve (): unknown {
    return this.#request.backgroundTasks
  }
}

function scopeOf (request: FastifyRequest): Container | null {
  return (request as unknown as { diScope?: Container | null }).diScope ?? null
}
