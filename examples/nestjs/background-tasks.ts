import { createParamDecorator, Module, Scope, type ExecutionContext } from '@nestjs/common'
import { HttpAdapterHost, REQUEST } from '@nestjs/core'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type {} from '../../index'

/** The collector of the request. What it is injected into is made anew for each request, as Nest has it. */
export const REQUEST_TASKS = Symbol('request tasks')

/** The application's own tasks, for singletons, timers and sockets. */
export const APP_TASKS = Symbol('application tasks')

/** The collector of the request, as a parameter of a controller's method. */
export const Tasks = createParamDecorator((_data: unknown, context: ExecutionContext) =>
  context.switchToHttp().getRequest<FastifyRequest>().backgroundTasks)

@Module({
  providers: [
    {
      provide: REQUEST_TASKS,
      scope: Scope.REQUEST,
      inject: [REQUEST],
      useFactory: (request: FastifyRequest) => request.backgroundTasks
    },
    {
      provide: APP_TASKS,
      inject: [HttpAdapterHost],
      useFactory: ({ httpAdapter }: HttpAdapterHost) => httpAdapter.getInstance<FastifyInstance>().backgroundTasks
    }
  ],
  exports: [REQUEST_TASKS, APP_TASKS]
})
export class BackgroundTasksModule {}
