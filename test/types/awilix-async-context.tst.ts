import type { Cradle, RequestCradle } from '@fastify/awilix'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { expect, test } from 'tstyche'
import type { AppBackgroundTasks, BackgroundTasks } from '../../index'
import '../../types/awilix-async-context'

declare const app: FastifyInstance
declare const request: FastifyRequest

type Door = AppBackgroundTasks['current']

test('the root container resolves the door, and so do scopes', () => {
  expect<Cradle['backgroundTasks']>().type.toBe<Door>()
  expect(app.diContainer.cradle.backgroundTasks).type.toBe<Door>()
  expect(app.diContainer.resolve('backgroundTasks')).type.toBe<Door>()
  expect(request.diScope.cradle.backgroundTasks).type.toBe<Door>()
})

test('which is no collector: there is nothing to release', () => {
  expect<RequestCradle>().type.not.toHaveProperty('backgroundTasks')
  expect<Door>().type.not.toHaveProperty('release')
  expect<BackgroundTasks>().type.toBeAssignableTo<Door>()
  expect<Door>().type.not.toBeAssignableTo<BackgroundTasks>()
})
