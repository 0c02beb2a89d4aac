import type { Add } from '../lib/add'

/*
 * import 'fastify-background-tasks/awilix/async-context'
 *
 * For applications that use `@fastify/awilix` with the option `asyncContext`: the root container resolves
 * `backgroundTasks`, and every scope resolves that same door.
 */
// What is only augmented is not loaded, and a declaration file keeps no import that nothing refers to.
export type { Cradle } from '@fastify/awilix'

declare module '@fastify/awilix' {
  interface Cradle {
    /** Adds to the request in progress, and outside of one to the application: `app.backgroundTasks.current`. */
    readonly backgroundTasks: Add
  }
}
