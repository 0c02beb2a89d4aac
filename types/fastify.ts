import type { AppBackgroundTasks } from '../lib/app-tasks'
import type { BackgroundTasks } from '../lib/request-tasks'

declare module 'fastify' {
  interface FastifyRequest {
    /**
     * Collects tasks that run after the response has been sent.
     * @throws FST_BGT_TOO_EARLY in an onRequest hook of a plugin that was registered before this one
     */
    readonly backgroundTasks: BackgroundTasks
  }

  interface FastifyInstance {
    /** The application's own tasks, and the state of all. */
    readonly backgroundTasks: AppBackgroundTasks
  }
}
