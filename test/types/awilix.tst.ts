import type { Cradle, RequestCradle } from '@fastify/awilix'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { expect, test } from 'tstyche'
import type { BackgroundTasks, TaskContext } from '../../index'
import '../../types/awilix'

declare const app: FastifyInstance
declare const request: FastifyRequest
declare const ctx: TaskContext

test('the scope of a request resolves the collector', () => {
  expect<RequestCradle['backgroundTasks']>().type.toBe<BackgroundTasks>()
  expect(request.diScope.cradle.backgroundTasks).type.toBe<BackgroundTasks>()
  expect(request.diScope.resolve('backgroundTasks')).type.toBe<BackgroundTasks>()
})

test('the root container does not', () => {
  expect<Cradle>().type.not.toHaveProperty('backgroundTasks')
  expect(app.diContainer.cradle).type.not.toHaveProperty('backgroundTasks')
})

test('the scope of a defined task is that of a request', () => {
  expect(ctx.diScope.cradle.backgroundTasks).type.toBe<BackgroundTasks>()
})
