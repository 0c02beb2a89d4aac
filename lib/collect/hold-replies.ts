import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { kTasks } from '../shared/symbols'
import { holdReply, type Next } from './held-reply'
import { RequestTasks } from './request-tasks'

/**
 * Adds the `onSend` hooks that hold each reply until the backend has the request's tasks: a 2xx means stored. Hooks of a route run after
 * those of every plugin, so nothing is left to fail but the writing of the reply.
 */
export function holdReplies (fastify: FastifyInstance): void {
  fastify.addHook('onRoute', backgroundTasksOnRoute)
  fastify.addHook('onSend', backgroundTasksOnSend)
}

function backgroundTasksOnRoute (route: RouteOptions): void {
  route.onSend = [...[route.onSend ?? []].flat(), backgroundTasksOnSendLast]
}

function backgroundTasksOnSendLast (request: FastifyRequest, reply: FastifyReply, payload: unknown, next: Next): void {
  const tasks = tasksOf(request)
  if (tasks instanceof RequestTasks) holdReply(tasks, reply, payload, next)
  else next(null, payload)
}

/** For requests without such a route: those of not-found handlers, and of routes declared before the plugin. */
function backgroundTasksOnSend (request: FastifyRequest, reply: FastifyReply, payload: unknown, next: Next): void {
  const tasks = tasksOf(request)
  if (tasks instanceof RequestTasks && tasks.durable?.storedLast === false) holdReply(tasks, reply, payload, next)
  else next(null, payload)
}

function tasksOf (request: FastifyRequest): unknown {
  return (request as unknown as { [kTasks]: unknown })[kTasks]
}
