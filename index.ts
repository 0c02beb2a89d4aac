import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { AppTasks, runInRequest } from './lib/app-tasks'
import { deliverTo } from './lib/deliveries'
import * as definitions from './lib/define-task'
import { assertAwilixOrder, bridgeTo } from './lib/di-scope'
import { drain } from './lib/drain'
import * as errors from './lib/errors'
import { loggable, resolveOptions, threadedDefinitions, type BackgroundTasksOptions } from './lib/options'
import { requestLogs } from './lib/request-log'
import { RequestTasks } from './lib/request-tasks'
import { Runtime } from './lib/runtime'
import { discard } from './lib/store'
import { kHandled, kResolver, kTasks } from './lib/symbols'
import { watchHandler } from './lib/trigger'
import * as unrecoverable from './lib/unrecoverable-error'
import './types/fastify'
import type * as types from './types/public'

interface Slots {
  [kTasks]: null | FastifyReply | RequestTasks
}

const plugin = fp(backgroundTasks, { fastify: '5.x', name: 'fastify-background-tasks' })

async function backgroundTasks (fastify: FastifyInstance, opts: BackgroundTasksOptions): Promise<void> {
  if (fastify.hasDecorator('backgroundTasks')) throw new errors.FST_BGT_ALREADY_REGISTERED()
  const options = resolveOptions(opts)
  const runtime = new Runtime(options, fastify.log, requestLogs(fastify))
  const app = new AppTasks(runtime)
  const di = bridgeTo(fastify, runtime, options.asyncContext ? app.current : null)
  runtime.door = app
  runtime.di = di

  fastify.decorate('backgroundTasks', app)
  fastify.decorateRequest(kHandled as unknown as string, null)
  fastify.decorateRequest(kResolver as unknown as string, null)
  fastify.decorateRequest(kTasks as unknown as string, null)
  fastify.decorateRequest('backgroundTasks', { getter: collectorOf })

  fastify.addHook('onRoute', watchHandler)
  if (options.asyncContext) {
    fastify.addHook('onRequest', backgroundTasksOnRequestContext)
  } else if (di !== null) {
    fastify.addHook('onRequest', backgroundTasksOnRequestDi)
    fastify.addHook('onResponse', backgroundTasksOnResponseDi)
  } else {
    fastify.addHook('onRequest', backgroundTasksOnRequest)
  }
  if (runtime.threads !== null) fastify.addHook('onReady', backgroundTasksOnReadyThreads)
  if (runtime.store !== null) {
    fastify.addHook('onSend', backgroundTasksOnSend)
    fastify.addHook('onReady', backgroundTasksOnReady)
  }
  fastify.addHook('onError', backgroundTasksOnError)
  fastify.addHook('preClose', backgroundTasksPreClose)
  fastify.addHook('onClose', backgroundTasksOnClose)
  assertAwilixOrder(fastify, di)
  fastify.log.debug({ backgroundTasks: loggable(options) }, 'background tasks registered')

  function collectorOf (this: FastifyRequest): RequestTasks {
    const request = this as unknown as Slots
    const slot = request[kTasks]
    if (slot instanceof RequestTasks) return slot
    if (slot === null) throw new errors.FST_BGT_TOO_EARLY()
    const tasks = di?.rejoin(this) ?? new RequestTasks(runtime, this, slot)
    request[kTasks] = tasks
    return tasks
  }

  function backgroundTasksOnRequest (request: FastifyRequest, reply: FastifyReply, next: () => void): void {
    (request as unknown as Slots)[kTasks] = reply
    next()
  }

  function backgroundTasksOnRequestContext (request: FastifyRequest, reply: FastifyReply, next: () => void): void {
    (request as unknown as Slots)[kTasks] = reply
    runInRequest(request, next)
  }

  function backgroundTasksOnRequestDi (request: FastifyRequest, reply: FastifyReply, next: () => void): void {
    (request as unknown as Slots)[kTasks] = reply
    di!.register(request)
    next()
  }

  function backgroundTasksOnResponseDi (request: FastifyRequest, reply: FastifyReply, next: () => void): void {
    di!.answered(request, reply)
    next()
  }

  // A 2xx means stored: the reply waits until the backend has the request's tasks.
  function backgroundTasksOnSend (request: FastifyRequest, reply: FastifyReply, payload: unknown, next: (error?: Error | null, payload?: unknown) => void): void {
    const tasks = (request as unknown as Slots)[kTasks]
    if (!(tasks instanceof RequestTasks) || tasks.durable === null || !tasks.durable.waiting) return next(null, payload)
    const outcome = { statusCode: reply.statusCode, error: tasks.error, aborted: tasks.aborted }
    tasks.durable.store(outcome).then(() => next(null, payload), error => {
      discard(payload)
      next(error)
    })
  }

  // Ahead of the backend, which hands out tasks at once.
  async function backgroundTasksOnReadyThreads (): Promise<void> {
    await runtime.threads!.check(threadedDefinitions(options))
  }

  async function backgroundTasksOnReady (): Promise<void> {
    await runtime.store!.open(fastify.log, runtime.logOf)
    if (options.workerConcurrency !== 0) await runtime.store!.work(options.workerConcurrency, deliverTo(runtime))
  }

  function backgroundTasksOnError (request: FastifyRequest, _reply: FastifyReply, error: FastifyError, next: () => void): void {
    // Without a reply in the slot the error comes from a hook before ours, and there can be no tasks.
    if ((request as unknown as Slots)[kTasks] !== null) (request.backgroundTasks as RequestTasks).fail(error)
    next()
  }

  // Between the close of the server and every other plugin's onClose there is no hook, but avvio has a place: what is
  // handed to its own `onClose` last, which preClose is in time for, runs first.
  function backgroundTasksPreClose (next: () => void): void {
    const avvio = fastify as unknown as { onClose (fn: (instance: unknown, done: () => void) => void): void }
    avvio.onClose((_instance, done) => { drain(runtime).then(done) })
    next()
  }

  // The net below that: another plugin's preClose hook that fails keeps ours from being called.
  function backgroundTasksOnClose (): Promise<void> {
    return drain(runtime)
  }
}

/**
 * Fastify plugin: `request.backgroundTasks` collects tasks that run after the response has been sent, and
 * `app.backgroundTasks` is the application's own door to them.
 */
const fastifyBackgroundTasks = Object.assign(plugin, {
  default: plugin,
  fastifyBackgroundTasks: plugin,
  defineTask: definitions.defineTask,
  UnrecoverableError: unrecoverable.UnrecoverableError,
  errorCodes: errors
})

// Node reads the text of a CommonJS module to find what an ES module may import from it by name: it finds these.
exports.default = exports.fastifyBackgroundTasks = plugin
exports.defineTask = definitions.defineTask
exports.UnrecoverableError = unrecoverable.UnrecoverableError
exports.errorCodes = errors

namespace fastifyBackgroundTasks {
  export type BackgroundTasksOptions = types.BackgroundTasksOptions
  export type BackgroundTasks = types.BackgroundTasks
  export type AppBackgroundTasks = types.AppBackgroundTasks
  export type TaskHandle = types.TaskHandle
  export type TaskState = types.TaskState
  export type TaskOptions = types.TaskOptions
  export type BackoffOptions = types.BackoffOptions
  export type DefinitionOptions = types.DefinitionOptions
  export type ThreadDefinitionOptions<Payload = any> = types.ThreadDefinitionOptions<Payload>
  export type ThreadOptions = types.ThreadOptions
  export type TaskDefinition<Payload = any, Result = unknown> = types.TaskDefinition<Payload, Result>
  export type TaskHandler<Payload, Result> = types.TaskHandler<Payload, Result>
  export type TaskContext = types.TaskContext
  export type TaskInfo = types.TaskInfo
  export type CapturedTask = types.CapturedTask
  export type Outcome = types.Outcome
  export type TaskMessage = types.TaskMessage
  export type RunMessage = types.RunMessage
  export type DropMessage = types.DropMessage
  export type RetryMessage = types.RetryMessage
  export type AbandonMessage = types.AbandonMessage
  export type SettleMessage = types.SettleMessage
  export type RunOn = types.RunOn
  export type Stats = types.Stats
}

export = fastifyBackgroundTasks
