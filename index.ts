import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { runInRequest } from './lib/collect/app-tasks'
import { Exchange } from './lib/collect/exchange'
import { watchHandler } from './lib/collect/handler'
import { isOfSecondReply } from './lib/collect/held-reply'
import { holdReplies } from './lib/collect/hold-replies'
import { RequestTasks } from './lib/collect/request-tasks'
import { assertAwilixOrder } from './lib/di/bridge'
import { Application } from './lib/fastify/application'
import { loggable } from './lib/fastify/options'
import * as errors from './lib/shared/errors'
import { kHandled, kResolver, kTasks } from './lib/shared/symbols'
import * as unrecoverable from './lib/shared/unrecoverable-error'
import * as definitions from './lib/task/define'
import './types/fastify'
import type { BackgroundTasksOptions } from './types/options'
import type * as types from './types/public'

type Done = () => void

interface Slots {
  [kTasks]: null | FastifyReply | RequestTasks
}

const plugin = fp(backgroundTasks, { fastify: '5.x', name: 'fastify-background-tasks' })

async function backgroundTasks (fastify: FastifyInstance, options: BackgroundTasksOptions): Promise<void> {
  if (fastify.hasDecorator('backgroundTasks')) throw new errors.FST_BGT_ALREADY_REGISTERED()
  const app = new Application(fastify, options)
  const { di, settings } = app

  fastify.decorate('backgroundTasks', app.tasks)
  for (const slot of [kHandled, kResolver, kTasks]) fastify.decorateRequest(slot as unknown as string, null)
  fastify.decorateRequest('backgroundTasks', { getter: collectorOf })

  fastify.addHook('onRoute', watchHandler)
  fastify.addHook('onRequest', backgroundTasksOnRequest)
  if (app.store !== null) holdReplies(fastify)
  fastify.addHook('onResponse', backgroundTasksOnResponse)
  fastify.addHook('onError', backgroundTasksOnError)
  // Ahead of the backend, which hands out tasks at once. A hook of its own has time of its own.
  if (app.threads !== null) fastify.addHook('onReady', backgroundTasksOnReadyThreads)
  if (app.store !== null || app.schedules.isLocal) fastify.addHook('onReady', backgroundTasksOnReady)
  fastify.addHook('preClose', backgroundTasksPreClose)
  fastify.addHook('onClose', backgroundTasksOnClose)
  assertAwilixOrder(fastify, di)
  fastify.log.debug({ backgroundTasks: loggable(settings) }, 'background tasks registered')

  function collectorOf (this: FastifyRequest): RequestTasks {
    const request = this as unknown as Slots
    const slot = request[kTasks]
    if (slot instanceof RequestTasks) return slot
    if (slot === null) throw new errors.FST_BGT_TOO_EARLY()
    const tasks = di?.reattach(this) ?? new RequestTasks(app, this, new Exchange(this, slot, settings.abortGrace, di !== null))
    request[kTasks] = tasks
    return tasks
  }

  function backgroundTasksOnRequest (request: FastifyRequest, reply: FastifyReply, done: Done): void {
    (request as unknown as Slots)[kTasks] = reply
    if (settings.asyncContext) return runInRequest(request, done)
    di?.register(request)
    done()
  }

  // Starts the tasks, unless the end of the raw reply has been heard before.
  function backgroundTasksOnResponse (request: FastifyRequest, reply: FastifyReply, done: Done): void {
    const slot = (request as unknown as Slots)[kTasks]
    if (slot instanceof RequestTasks) slot.exchange?.end()
    else if (di !== null) di.answered(request, reply)
    done()
  }

  function backgroundTasksOnError (request: FastifyRequest, reply: FastifyReply, error: FastifyError, done: Done): void {
    // Without a reply in the slot the error comes from a hook before ours, and there can be no tasks.
    if ((request as unknown as Slots)[kTasks] !== null && !isOfSecondReply(reply, error)) (request.backgroundTasks as RequestTasks).fail(error)
    done()
  }

  function backgroundTasksOnReadyThreads (): Promise<void> {
    return app.startThreads()
  }

  function backgroundTasksOnReady (): Promise<void> {
    return app.start()
  }

  function backgroundTasksPreClose (done: Done): void {
    app.drainFirst()
    done()
  }

  // For a close whose preClose hooks end before ours, because that of another plugin fails.
  function backgroundTasksOnClose (): Promise<void> {
    return app.drain()
  }
}

/**
 * Fastify plugin: `request.backgroundTasks` collects tasks that run after the response has been sent, and
 * `app.backgroundTasks` is the application's own collector.
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
  export type ContextTaskOptions = types.ContextTaskOptions
  export type ThreadTaskContext = types.ThreadTaskContext
  export type ThreadTaskHandler<Payload, Result> = types.ThreadTaskHandler<Payload, Result>
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
  export type Schedule<Payload = any> = types.Schedule<Payload>
  export type ScheduleInfo = types.ScheduleInfo
  export type Stats = types.Stats
  export type TransactionClient = types.TransactionClient
  export type TransactionTaskOptions = types.TransactionTaskOptions
}

export = fastifyBackgroundTasks
