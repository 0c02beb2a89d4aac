import createError from '@fastify/error'

/** The argument of `add` is neither a function nor a defined task. */
export const FST_BGT_INVALID_TASK = createError(
  'FST_BGT_INVALID_TASK',
  'A background task must be a function or a defined task, received %s',
  500,
  TypeError
)

/** A method was called without its collector. */
export const FST_BGT_UNBOUND = createError(
  'FST_BGT_UNBOUND',
  "A method was called without its collector: write 'tasks.add(…)', not 'const { add } = tasks'",
  500,
  TypeError
)

/** An option of one task or of a definition has the wrong type or value. */
export const FST_BGT_INVALID_TASK_OPTION = createError(
  'FST_BGT_INVALID_TASK_OPTION',
  "The task option '%s' must be %s, received %s",
  500,
  TypeError
)

/** An option of the plugin has the wrong type or value. */
export const FST_BGT_INVALID_OPTION = createError(
  'FST_BGT_INVALID_OPTION',
  "The plugin option '%s' must be %s, received %s",
  500,
  TypeError
)

/** `register` was given an option that the plugin does not have. */
export const FST_BGT_UNKNOWN_OPTION = createError(
  'FST_BGT_UNKNOWN_OPTION',
  "Unknown plugin option received: '%s'; the options are %s",
  500,
  TypeError
)

/** The plugin is registered already in this context or in one around it. */
export const FST_BGT_ALREADY_REGISTERED = createError(
  'FST_BGT_ALREADY_REGISTERED',
  'fastify-background-tasks received a second registration in one context: register it once, or once in each of several sibling contexts'
)

/** A hook that runs before the plugin's own has read `request.backgroundTasks`. */
export const FST_BGT_TOO_EARLY = createError(
  'FST_BGT_TOO_EARLY',
  'request.backgroundTasks received a call before its own onRequest hook had run: register fastify-background-tasks before the plugin whose hook adds tasks'
)

/** An error with `Retry-After`: Fastify's default error handler sends an error's `headers`. */
class RetryLater extends Error {
  get headers (): Record<string, string> {
    return { 'retry-after': '1' }
  }
}

/** `maxPending` tasks are accepted and not settled, or `threads.maxQueue` wait for a thread. Answered with 503 and `Retry-After`. */
export const FST_BGT_OVERLOADED = createError(
  'FST_BGT_OVERLOADED',
  'The background task was refused: %s tasks are %s, and %s',
  503,
  RetryLater as unknown as ErrorConstructor
)

/** `add` was called after the drain of the application's close. Answered with 503. */
export const FST_BGT_CLOSED = createError(
  'FST_BGT_CLOSED',
  'The background task was refused: the application has closed',
  503
)

/** An attempt took longer than its `timeout`. */
export const FST_BGT_TIMEOUT = createError(
  'FST_BGT_TIMEOUT',
  "The background task '%s' took longer than its timeout of %s ms"
)

/** The reason of a signal that `cancel()` aborts. */
export const FST_BGT_CANCELLED = createError(
  'FST_BGT_CANCELLED',
  "The background task '%s' was cancelled"
)

/** The reason of a signal that aborts because the application's close has run out of time. */
export const FST_BGT_CLOSE_TIMEOUT = createError(
  'FST_BGT_CLOSE_TIMEOUT',
  'The application closes, and the background tasks did not end within %s ms'
)

/** The payload of a defined task holds something that JSON would change or lose. */
export const FST_BGT_INVALID_PAYLOAD = createError(
  'FST_BGT_INVALID_PAYLOAD',
  "The payload of the background task '%s' must be plain JSON: %s received %s",
  500,
  TypeError
)

/** The payload of a defined task has more than 16,777,216 characters of JSON. */
export const FST_BGT_PAYLOAD_TOO_LARGE = createError(
  'FST_BGT_PAYLOAD_TOO_LARGE',
  "The payload of the background task '%s' must be at most %s characters of JSON, received %s: put it elsewhere, and give the task what it needs to find it",
  500,
  RangeError
)

/** The defined task is not in the plugin option `tasks`. */
export const FST_BGT_UNKNOWN_TASK = createError(
  'FST_BGT_UNKNOWN_TASK',
  "The task '%s' is not known here: list its definition in the plugin option 'tasks', which received %s"
)

/** `runSchedule` was called with an id that is not in the option `schedules`. */
export const FST_BGT_UNKNOWN_SCHEDULE = createError(
  'FST_BGT_UNKNOWN_SCHEDULE',
  "The schedule %s is not known here: the plugin option 'schedules' received %s"
)

/** A task that is defined without a function was called, or is listed where no other process could run it. */
export const FST_BGT_NO_HANDLER = createError(
  'FST_BGT_NO_HANDLER',
  "The task '%s' is defined without a function, to run in other processes: %s"
)

/** Two definitions in the option `tasks` have the same name. */
export const FST_BGT_DUPLICATE_TASK = createError(
  'FST_BGT_DUPLICATE_TASK',
  "The plugin option 'tasks' received two definitions with the name '%s'"
)

/** `idle()` would have to wait for a handler that has not answered, perhaps the very one that called it. */
export const FST_BGT_IDLE_IN_HANDLER = createError(
  'FST_BGT_IDLE_IN_HANDLER',
  'idle() cannot wait for requests that are not answered yet, received a call while %s of them had tasks: await their responses first, and do not call idle() inside a handler, which would wait for itself'
)

/** `@fastify/awilix` is registered after the plugin, or in an inner context: its scopes would lack the collector. */
export const FST_BGT_AWILIX_ORDER = createError(
  'FST_BGT_AWILIX_ORDER',
  'fastify-background-tasks received its registration before that of @fastify/awilix, or outside its context: register @fastify/awilix first, in the same context or in one around it'
)

/** `app.backgroundTasks.current` was read without the option `asyncContext`. */
export const FST_BGT_NO_ASYNC_CONTEXT = createError(
  'FST_BGT_NO_ASYNC_CONTEXT',
  "app.backgroundTasks.current needs the plugin option 'asyncContext: true', received false"
)

/** The backend could not store the request's tasks. Answered with 503; the error of the backend is the `cause`. */
export const FST_BGT_STORE_FAILED = createError(
  'FST_BGT_STORE_FAILED',
  'The background tasks could not be stored: %s received %s',
  503
)

/** The option `backend`, or a task that runs on a thread, needs a package that is not installed. */
export const FST_BGT_MISSING_PACKAGE = createError(
  'FST_BGT_MISSING_PACKAGE',
  '%s needs packages that are not installed, received none: run `npm install %s`'
)

/** A task runs on a thread, and the plugin is bundled: a thread has to load files of the plugin. */
export const FST_BGT_BUNDLED = createError(
  'FST_BGT_BUNDLED',
  "Tasks on threads need the plugin's own files, received a bundle without them: mark 'fastify-background-tasks' as external, and install it beside the bundle"
)

/** The backend needs a newer version of Node. */
export const FST_BGT_NODE_VERSION = createError(
  'FST_BGT_NODE_VERSION',
  "The backend '%s' needs Node %s or later, received %s"
)

/** The backend does not support an option of `add`. */
export const FST_BGT_UNSUPPORTED = createError(
  'FST_BGT_UNSUPPORTED',
  "The backend '%s' does not have %s: %s"
)

/** `addInTransaction` was given a task that stays in this process, where no transaction can hold it. */
export const FST_BGT_NOT_DURABLE = createError(
  'FST_BGT_NOT_DURABLE',
  'addInTransaction needs a defined task that a backend keeps, received %s: add it after the commit',
  500,
  TypeError
)

/** The client of `addInTransaction` has no open transaction. */
export const FST_BGT_NO_TRANSACTION = createError(
  'FST_BGT_NO_TRANSACTION',
  'addInTransaction needs a client with an open transaction, received one without: %s'
)

/** The client of `addInTransaction` is none of the backend's database. */
export const FST_BGT_INVALID_CLIENT = createError(
  'FST_BGT_INVALID_CLIENT',
  'The client of addInTransaction must be %s, received %s',
  500,
  TypeError
)

/** The backend could not be reached or used when the application started. The error of the backend is the `cause`. */
export const FST_BGT_BACKEND_FAILED = createError(
  'FST_BGT_BACKEND_FAILED',
  'The backend could not start: %s received %s'
)

/** The module of a task that runs on a thread cannot be loaded there, or has no handler. Found when the application starts. */
export const FST_BGT_INVALID_MODULE = createError(
  'FST_BGT_INVALID_MODULE',
  "The module of the background task '%s' must be %s"
)

/** The payload or the result of a task that runs on a thread cannot go from one thread to another. */
export const FST_BGT_UNCLONABLE = createError(
  'FST_BGT_UNCLONABLE',
  '%s must be something that structuredClone can copy, received %s',
  500,
  TypeError
)

/** The thread of an attempt came to its end before the attempt did; the `cause` says how. */
export const FST_BGT_THREAD_DIED = createError(
  'FST_BGT_THREAD_DIED',
  "The thread of the background task '%s' ended before the task: received %s"
)

/** A handler on a thread asked for `ctx.diScope`. */
export const FST_BGT_NO_DI_SCOPE = createError(
  'FST_BGT_NO_DI_SCOPE',
  "ctx.diScope of the background task '%s' received a call on a worker thread: the DI container is on the main thread, give the task what it needs in its payload"
)

/** `ctx.add` was called after the end of its attempt, or where there is none. */
export const FST_BGT_NO_ATTEMPT = createError(
  'FST_BGT_NO_ATTEMPT',
  "ctx.add of the background task '%s' received a call %s"
)

/** A handler on a thread asked for something that only the main thread has: to add a plain function, or to follow a task. */
export const FST_BGT_NOT_ON_THREAD = createError(
  'FST_BGT_NOT_ON_THREAD',
  'ctx.add on a worker thread takes a defined task, and returns its id and its name alone, received %s',
  500,
  TypeError
)

/** The dashboard was registered before the plugin, or outside its context. */
export const FST_BGT_NOT_REGISTERED = createError(
  'FST_BGT_NOT_REGISTERED',
  'The dashboard received an application without background tasks: register fastify-background-tasks first, in the same context or in one around it'
)

/** A second dashboard was registered for the same tasks. */
export const FST_BGT_DASHBOARD_REGISTERED = createError(
  'FST_BGT_DASHBOARD_REGISTERED',
  'The dashboard received a second registration for the same background tasks: register it once'
)

/** A page other than the dashboard requested an action or the event stream of the dashboard. Answered with 403. */
export const FST_BGT_FOREIGN_PAGE = createError(
  'FST_BGT_FOREIGN_PAGE',
  'The request was refused: it must come from the dashboard itself, received %s',
  403
)

/** The dashboard has its maximum of open pages, or one on this connection. Answered with 503. */
export const FST_BGT_TOO_MANY_VIEWERS = createError(
  'FST_BGT_TOO_MANY_VIEWERS',
  'The dashboard received one viewer too many: it has %s, and as many as it takes',
  503
)

/** A dashboard without a `preHandler` got a request from another machine, or for a foreign host name. Answered with 403. */
export const FST_BGT_LOCAL_ONLY = createError(
  'FST_BGT_LOCAL_ONLY',
  "A dashboard without a preHandler answers only this machine, by the name 'localhost' or its loopback address, and not through a proxy: give it a preHandler that decides who may see it; received %s",
  403
)
