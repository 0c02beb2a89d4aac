/** Request slot: `null`, then the reply (from the onRequest hook on), then the collector (from its first use on). */
export const kTasks = Symbol('fastify-background-tasks.tasks')

/** Request slot: `null`, then the handler's return value; while a wait for the handler is under way, that wait. */
export const kHandled = Symbol('fastify-background-tasks.handled')

/** Marks the config of a route whose handler is wrapped, to write {@link kHandled}. */
export const kWatched = Symbol('fastify-background-tasks.watched')

/** Request slot: `null`, or the resolver of `backgroundTasks` in the request's DI scope. */
export const kResolver = Symbol('fastify-background-tasks.resolver')
