import { fastifyAwilixPlugin, type FastifyAwilixOptions } from '@fastify/awilix'
import { asClass, createContainer, Lifetime, type AwilixContainer } from 'awilix'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import backgroundTasks, { type BackgroundTasksOptions } from '../../index'
import type { LogLine } from './server'
import { NEVER_MS } from './until'

/** Something that a request opens in its scope, and that must not be used once it is closed. */
export class Handle {
  closed = 0

  /** @throws when it is closed: a task that uses it then fails, visibly. */
  use (): string {
    if (this.closed !== 0) throw new Error('the handle is closed')
    return 'used'
  }

  close (): void {
    this.closed++
  }
}

/** Registers `handle`, scoped and with a disposer, and keeps every one that was made. */
export function registerHandle (container: AwilixContainer<any>): Handle[] {
  const handles: Handle[] = []
  class TrackedHandle extends Handle {
    constructor () {
      super()
      handles.push(this)
    }
  }
  container.register('handle', asClass(TrackedHandle, { lifetime: Lifetime.SCOPED, dispose: handle => handle.close() }))
  return handles
}

export interface DiAppOptions extends FastifyAwilixOptions {
  container?: AwilixContainer<any>
  fastify?: FastifyServerOptions
  /** Called before anything is registered. */
  before?: (app: FastifyInstance) => void
}

/**
 * An application with `@fastify/awilix` and the plugin, whose log is kept. Each has a container of its own: the one of
 * `@fastify/awilix` is shared by the whole process. It is closed when the test ends.
 */
export async function createDiApp (
  t: Test,
  options: BackgroundTasksOptions = {},
  { fastify = {}, before, container = createContainer(), ...awilix }: DiAppOptions = {}
): Promise<{ app: FastifyInstance, log: LogLine[], container: AwilixContainer<any>, handles: Handle[] }> {
  const log: LogLine[] = []
  const app = Fastify({
    logger: { level: 'debug', stream: { write: (line: string) => { log.push(JSON.parse(line)) } } },
    forceCloseConnections: true,
    ...fastify
  }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  before?.(app)
  await app.register(fastifyAwilixPlugin, { ...awilix, container })
  await app.register(backgroundTasks, { abortGrace: 2 * NEVER_MS, ...options })
  return { app, log, container, handles: registerHandle(container) }
}
