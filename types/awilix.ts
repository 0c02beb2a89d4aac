import type { BackgroundTasks } from './collector'

/*
 * import 'fastify-background-tasks/awilix'
 *
 * For applications that use `@fastify/awilix` without the option `asyncContext`: the scopes of requests resolve
 * `backgroundTasks`, the root container does not. With the option, import
 * 'fastify-background-tasks/awilix/async-context' instead.
 */
// An export, since a declaration file drops unused imports, and the module must be loaded to be augmented.
export type { RequestCradle } from '@fastify/awilix'

declare module '@fastify/awilix' {
  interface RequestCradle {
    /** The collector of the request: the same object as `request.backgroundTasks`. */
    readonly backgroundTasks: BackgroundTasks
  }
}
