import type { BackgroundTasks } from '../lib/request-tasks'

/*
 * import 'fastify-background-tasks/awilix'
 *
 * For applications that use `@fastify/awilix` without the option `asyncContext`: the scopes of requests resolve
 * `backgroundTasks`, the root container does not. With the option, import
 * 'fastify-background-tasks/awilix/async-context' instead.
 */
// What is only augmented is not loaded, and a declaration file keeps no import that nothing refers to.
export type { RequestCradle } from '@fastify/awilix'

declare module '@fastify/awilix' {
  interface RequestCradle {
    /** The collector of the request: the same object as `request.backgroundTasks`. */
    readonly backgroundTasks: BackgroundTasks
  }
}
