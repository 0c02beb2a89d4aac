import type { AppBackgroundTasks, BackgroundTasks } from './collector'

declare module 'fastify' {
  interface FastifyRequest {
    /**
     * The collector of the request: its tasks run after the response has been sent.
     * @throws FST_BGT_TOO_EARLY in an onRequest hook of a plugin that was registered before this one
     */
    readonly backgroundTasks: BackgroundTasks
  }

  interface FastifyInstance {
    /** The application's own tasks, and the state of all. */
    readonly backgroundTasks: AppBackgroundTasks
  }
}
