import type { Add } from './collector'

/*
 * import 'fastify-background-tasks/awilix/async-context'
 *
 * For applications that use `@fastify/awilix` with the option `asyncContext`: the root container resolves
 * `backgroundTasks`, and every scope resolves the same object.
 */
// An export, since a declaration file drops unused imports, and the module must be loaded to be augmented.
export type { Cradle } from '@fastify/awilix'

declare module '@fastify/awilix' {
  interface Cradle {
    /** Adds to the request in progress, and outside of one to the application: `app.backgroundTasks.current`. */
    readonly backgroundTasks: Add
  }
}
