/** A request's slot: `null`, then its reply (from the onRequest hook on), then its collector (from the first use on). */
export const kTasks = Symbol('fastify-background-tasks.tasks')

/** A request's slot: `null`, then what its handler returned; meanwhile, the collector that waits for the handler. */
export const kHandled = Symbol('fastify-background-tasks.handled')

/** Marks the config of a route whose handler is watched, and so writes {@link kHandled}. */
export const kWatched = Symbol('fastify-background-tasks.watched')

/** A request's slot: `null`, or what gives its collector to its DI scope. */
export const kResolver = Symbol('fastify-background-tasks.resolver')
