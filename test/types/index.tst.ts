import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { readFile } from 'node:fs'
import { CompiledQuery, type Transaction } from 'kysely'
import { Pool, type Client, type PoolClient } from 'pg'
import { expect, test } from 'tstyche'
import backgroundTasks, {
  defineTask,
  errorCodes,
  fastifyBackgroundTasks,
  UnrecoverableError,
  type AppBackgroundTasks,
  type BackgroundTasks,
  type BackgroundTasksOptions,
  type CapturedTask,
  type ContextTaskOptions,
  type Outcome,
  type Schedule,
  type ScheduleInfo,
  type Stats,
  type TaskContext,
  type TaskDefinition,
  type TaskHandle,
  type TaskInfo,
  type TaskOptions,
  type TaskState,
  type ThreadOptions,
  type ThreadTaskContext,
  type ThreadTaskHandler,
  type TransactionClient,
  type TransactionTaskOptions
} from '../../index'
import * as everything from '../../index'

declare const app: FastifyInstance
declare const request: FastifyRequest
declare const tasks: BackgroundTasks
declare const options: TaskOptions
declare const transaction: Transaction<any>

/** As Prisma has it. */
declare const prisma: { $queryRawUnsafe<T = unknown> (query: string, ...values: any[]): Promise<T> }

/** As `node:sqlite` has it, which the types of Node 20 have not. */
interface DatabaseSync {
  exec (sql: string): void
  prepare (sql: string): {
    run (...values: Array<null | number | bigint | string | NodeJS.ArrayBufferView>): { changes: number | bigint }
    get (...values: Array<null | number | bigint | string | NodeJS.ArrayBufferView>): Record<string, unknown> | undefined
  }
}

declare function noArguments (): void
declare function oneArgument (email: string): Promise<void>
declare function twoArguments (email: string, times: number): void
declare function optionalArgument (email: string, times?: number): void
declare function defaultArgument (email: string, times: number | undefined): void
declare function restArguments (email: string, ...times: number[]): void
declare function generic<T> (one: T, other: T): void
declare function withSignal (email: string, signal: AbortSignal): Promise<void>
declare function signalAlone (signal: AbortSignal): void
declare function overloaded (email: string): void
declare function overloaded (times: number, email: string): void
declare function overloadedWithNone (): void
declare function overloadedWithNone (email: string): void
declare function restBetween (...args: [email: string, ...times: number[], last: boolean]): void
declare const either: typeof oneArgument | ((times: number) => void)
declare const perhaps: typeof oneArgument | undefined
declare const perhapsWithSignal: { signal: true } | { attempts: number }
declare const anyDefinition: TaskDefinition
declare const emails: string[]
declare const mailer: { send (email: string): void, send (from: number, to: number): void }

test('the plugin has a default and a named form, and what else it exports', () => {
  expect(backgroundTasks).type.toBeAssignableTo(fastifyBackgroundTasks)
  expect(everything.default).type.toBe(backgroundTasks)
  expect(everything.fastifyBackgroundTasks).type.toBe(fastifyBackgroundTasks)
  expect(everything.defineTask).type.toBe(defineTask)
  expect(Fastify().register).type.toBeCallableWith(backgroundTasks)
  expect(Fastify().register).type.toBeCallableWith(fastifyBackgroundTasks)
  expect(new UnrecoverableError('no use')).type.toBeAssignableTo<Error>()
  expect(new errorCodes.FST_BGT_CLOSED().code).type.toBe<'FST_BGT_CLOSED'>()
})

test('requests and applications are decorated', () => {
  expect(request.backgroundTasks).type.toBe<BackgroundTasks>()
  expect(app.backgroundTasks).type.toBe<AppBackgroundTasks>()
  app.get('/', async (request, reply) => {
    expect(request.backgroundTasks).type.toBe<BackgroundTasks>()
    expect(reply.request.backgroundTasks).type.toBe<BackgroundTasks>()
  })
})

test('a task that runs elsewhere has a payload and a result, and no function', () => {
  expect(defineTask<{ key: string }, number>('shop.resize')).type.toBe<TaskDefinition<{ key: string }, number>>()
  expect(defineTask('shop.clean')).type.toBe<TaskDefinition<undefined, unknown>>()
  expect(defineTask).type.toBeCallableWith('shop.resize', { attempts: 3, delay: 5 })
  expect(defineTask).type.not.toBeCallableWith('shop.resize', { local: true })
  expect(defineTask).type.not.toBeCallableWith('shop.resize', { retries: 3 })
  expect(tasks.add).type.toBeCallableWith(defineTask<{ key: string }>('shop.resize'), { key: 'a' })
  expect(tasks.add).type.not.toBeCallableWith(defineTask<{ key: string }>('shop.resize'), { key: 1 })
})

test('register takes the options, and no others', () => {
  expect(app.register).type.toBeCallableWith(backgroundTasks, {})
  expect(app.register).type.toBeCallableWith(backgroundTasks, {
    tasks: [],
    onFailure: 'stop',
    onError: () => {},
    concurrency: 8,
    maxPending: Infinity,
    abortGrace: 0,
    closeTimeout: 1,
    mode: 'capture',
    asyncContext: true,
    disposeScopes: false
  })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { onFailure: 'halt' })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { concurrency: '8' })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { tasks: [oneArgument] })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { asyncContext: 1 })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { concurency: 8 })
  expect<BackgroundTasksOptions['mode']>().type.toBe<'run' | 'capture' | undefined>()
})

test('outcome gets the request and the reply, and answers success, failure or nothing', () => {
  app.register(backgroundTasks, {
    outcome (request, reply) {
      expect(request).type.toBe<FastifyRequest>()
      expect(reply).type.toBe<FastifyReply>()
      return reply.statusCode >= 500 ? 'failure' : undefined
    }
  })
  expect(app.register).type.toBeCallableWith(backgroundTasks, { outcome: () => 'success' as const })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { outcome: () => 'failed' })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { outcome: async () => undefined })
  expect<Outcome['failed']>().type.toBe<boolean>()
})

test('onError gets the error, the task and the request, if there is one', () => {
  app.register(backgroundTasks, {
    onError (error, task, request) {
      expect(error).type.toBe<unknown>()
      expect(task).type.toBe<TaskHandle>()
      expect(request).type.toBe<FastifyRequest | null>()
    }
  })
})

test('add takes a function and its arguments', () => {
  expect(tasks.add).type.toBeCallableWith(noArguments)
  expect(tasks.add).type.toBeCallableWith(oneArgument, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith(twoArguments, 'ada@example.com', 1)
  expect(tasks.add(oneArgument, 'ada@example.com')).type.toBe<TaskHandle>()
})

test('optional and rest arguments may be left out', () => {
  expect(tasks.add).type.toBeCallableWith(optionalArgument, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith(optionalArgument, 'ada@example.com', 2)
  expect(tasks.add).type.toBeCallableWith(defaultArgument, 'ada@example.com', undefined)
  expect(tasks.add).type.toBeCallableWith(restArguments, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith(restArguments, 'ada@example.com', 1, 2, 3)
})

test('wrong, missing and surplus arguments are refused', () => {
  expect(tasks.add).type.not.toBeCallableWith(noArguments, 1)
  expect(tasks.add).type.not.toBeCallableWith(oneArgument)
  expect(tasks.add).type.not.toBeCallableWith(oneArgument, 1)
  expect(tasks.add).type.not.toBeCallableWith(oneArgument, 'ada@example.com', 'some notification')
  expect(tasks.add).type.not.toBeCallableWith(twoArguments, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith(optionalArgument, 'ada@example.com', 'twice')
  expect(tasks.add).type.not.toBeCallableWith(restArguments, 'ada@example.com', 1, 'two')
})

test('generic functions keep their bond between arguments', () => {
  expect(tasks.add).type.toBeCallableWith(generic, 1, 2)
  expect(tasks.add).type.toBeCallableWith(generic<string>, 'one', 'other')
  expect(tasks.add).type.not.toBeCallableWith(generic<string>, 'one', 2)
  expect(tasks.add).type.not.toBeCallableWith(generic, 1, 'other')
})

test('any overload of a function is accepted, and nothing else', () => {
  expect(tasks.add).type.toBeCallableWith(readFile, 'letter.txt', noArguments)
  expect(tasks.add).type.toBeCallableWith(readFile, 'letter.txt', 'utf8', noArguments)
  expect(tasks.add).type.toBeCallableWith(readFile, 'letter.txt', { encoding: 'utf8' }, noArguments)
  expect(tasks.add).type.toBeCallableWith(overloaded, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith(overloaded, 1, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith({ name: 'overloaded' }, overloaded, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith({ name: 'overloaded' }, overloaded, 1, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith(mailer.send, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith(mailer.send, 1, 2)
  expect(tasks.add).type.toBeCallableWith(overloadedWithNone)
  expect(tasks.add).type.toBeCallableWith(overloadedWithNone, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith(overloaded)
  expect(tasks.add).type.not.toBeCallableWith(overloaded, true)
  expect(tasks.add).type.not.toBeCallableWith(overloaded, 1)
  expect(tasks.add).type.not.toBeCallableWith(overloaded, 'ada@example.com', 1)
  expect(tasks.add).type.not.toBeCallableWith({ name: 'overloaded' }, overloaded, true)
  expect(tasks.add).type.not.toBeCallableWith({ nme: 'overloaded' }, overloaded, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith(mailer.send, 1)
  expect(tasks.add).type.not.toBeCallableWith(overloadedWithNone, 1)
  expect(tasks.add).type.not.toBeCallableWith(overloadedWithNone, 'ada@example.com', 1)
  expect(tasks.add).type.not.toBeCallableWith({ name: 'none' }, noArguments, 1)
})

test('what may be one thing or another has to fit as both', () => {
  expect(tasks.add).type.not.toBeCallableWith(either, 1)
  expect(tasks.add).type.not.toBeCallableWith({ name: 'either' }, either, 1)
  expect(tasks.add).type.not.toBeCallableWith(perhapsWithSignal, oneArgument, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith(perhaps, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith({ name: 'any' }, anyDefinition, ...emails)
  expect(tasks.add).type.not.toBeCallableWith({ signal: false }, restBetween, 'ada@example.com')
})

test('a function written in place has its parameters from the arguments', () => {
  tasks.add((email, times) => {
    expect(email).type.toBe<string>()
    expect(times).type.toBe<number>()
  }, 'ada@example.com', 1)
  tasks.add({ name: 'in place' }, async email => { expect(email).type.toBe<string>() }, 'ada@example.com')
})

test('what is no function is refused', () => {
  expect(tasks.add).type.not.toBeCallableWith()
  expect(tasks.add).type.not.toBeCallableWith('oneArgument', 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith({ name: 'alone' })
  expect(tasks.add).type.not.toBeCallableWith(null, oneArgument, 'ada@example.com')
})

test('options go first', () => {
  expect(tasks.add).type.toBeCallableWith({}, oneArgument, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith({ name: 'mail', timeout: 5, attempts: 3, delay: 1, key: 'mail' }, twoArguments, 'ada@example.com', 1)
  expect(tasks.add).type.toBeCallableWith({ backoff: 100 }, noArguments)
  expect(tasks.add).type.toBeCallableWith({ backoff: { type: 'exponential', delay: 1, jitter: 0.5 } }, noArguments)
  expect(tasks.add).type.toBeCallableWith({ runOn: 'always' }, restArguments, 'ada@example.com')
  expect(tasks.add({ name: 'mail' }, noArguments)).type.toBe<TaskHandle>()
  tasks.add({
    runOn: outcome => {
      expect(outcome).type.toBe<Outcome>()
      return outcome.statusCode === 200 && outcome.error === null && !outcome.aborted
    }
  }, noArguments)
})

test('wrong options are refused, and wrong arguments behind right ones', () => {
  expect(tasks.add).type.not.toBeCallableWith({ nme: 'mail' }, noArguments)
  expect(tasks.add).type.not.toBeCallableWith({ timeout: '5 s' }, noArguments)
  expect(tasks.add).type.not.toBeCallableWith({ runOn: 'sometimes' }, noArguments)
  expect(tasks.add).type.not.toBeCallableWith({ runOn: () => 'yes' }, noArguments)
  expect(tasks.add).type.not.toBeCallableWith({ backoff: { type: 'linear', delay: 1 } }, noArguments)
  expect(tasks.add).type.not.toBeCallableWith({ name: 'mail' }, oneArgument, 1)
  expect(tasks.add).type.not.toBeCallableWith({ name: 'mail' }, oneArgument)
  expect(tasks.add).type.not.toBeCallableWith(noArguments, { name: 'mail' })
})

test('`signal: true` appends an AbortSignal', () => {
  expect(tasks.add).type.toBeCallableWith({ signal: true }, withSignal, 'ada@example.com')
  expect(tasks.add).type.toBeCallableWith({ signal: true, timeout: 5 }, signalAlone)
  tasks.add({ signal: true }, (email, signal) => {
    expect(email).type.toBe<string>()
    expect(signal).type.toBe<AbortSignal>()
  }, 'ada@example.com')
})

test('which is not given by hand, nor without the option', () => {
  expect(tasks.add).type.not.toBeCallableWith({ signal: true }, withSignal, 'ada@example.com', new AbortController().signal)
  expect(tasks.add).type.not.toBeCallableWith({ signal: true }, twoArguments, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith({ signal: false }, withSignal, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith(withSignal, 'ada@example.com')
  expect(tasks.add).type.not.toBeCallableWith(options, withSignal, 'ada@example.com')
})

interface Order { id: number, items: string[] }

const sendReceipt = defineTask('send-receipt', async (order: Order, ctx) => {
  expect(ctx).type.toBe<TaskContext>()
  return order.items.length
}, { attempts: 3 })
const cleanUp = defineTask('clean-up', (_payload, ctx) => ctx.attempt)
const greet = defineTask('greet', (name?: string) => `hello ${name ?? ''}`)

test('ctx.add takes what add takes, without runOn and key', () => {
  defineTask('parent', (_payload, ctx) => {
    const { add } = ctx
    expect(add(sendReceipt, { id: 1, items: [] })).type.toBe<TaskHandle>()
    expect(add).type.toBeCallableWith({ dedupe: 'one', delay: 1 }, sendReceipt, { id: 1, items: [] })
    expect(add).type.toBeCallableWith(oneArgument, 'ada@example.com')
    expect(add).type.toBeCallableWith({ signal: true }, withSignal, 'ada@example.com')
    expect(add).type.not.toBeCallableWith(sendReceipt, { id: '1' })
    expect(add).type.not.toBeCallableWith({ runOn: 'always' }, sendReceipt, { id: 1, items: [] })
    expect(add).type.not.toBeCallableWith({ key: 'one' }, cleanUp)
  })
  expect({ delay: 1, name: 'x' }).type.toBeAssignableTo<ContextTaskOptions>()
  expect<TaskHandle>().type.toBeAssignableTo<ReturnType<ThreadTaskContext['add']>>()
})

test('on a thread ctx.add takes defined tasks, and returns the id and the name', () => {
  const handler: ThreadTaskHandler<Order, Promise<string>> = async (_order, { add }) => {
    expect(add).type.not.toBeCallableWith(oneArgument, 'ada@example.com')
    expect(add).type.not.toBeCallableWith({ key: 'one' }, cleanUp)
    expect(add({ delay: 1 }, cleanUp)).type.toBe<Pick<TaskHandle, 'id' | 'name'>>()
    return add(sendReceipt, { id: 1, items: [] }).id
  }
  expect(handler).type.toBe<ThreadTaskHandler<Order, Promise<string>>>()
})

test('defineTask infers payload and result', () => {
  expect(sendReceipt).type.toBe<TaskDefinition<Order, Promise<number>>>()
  expect(cleanUp).type.toBe<TaskDefinition<undefined, number>>()
  expect(sendReceipt.name).type.toBe<string>()
  expect(sendReceipt({ id: 1, items: [] })).type.toBe<Promise<number>>()
  expect(sendReceipt({ id: 1, items: [] }, { attempt: 2 })).type.toBe<Promise<number>>()
  expect(sendReceipt).type.not.toBeCallableWith({ id: '1', items: [] })
  expect(sendReceipt).type.not.toBeCallableWith({ id: 1, items: [] }, { attempt: 'second' })
})

test('a definition has no options that only an add can have', () => {
  expect(defineTask).type.toBeCallableWith('task', noArguments, { attempts: 2, backoff: 5, timeout: 5, runOn: 'always', key: 'key', delay: 1 })
  expect(defineTask).type.not.toBeCallableWith('task', noArguments, { name: 'other' })
  expect(defineTask).type.not.toBeCallableWith('task', noArguments, { signal: true })
  expect(defineTask).type.not.toBeCallableWith(1, noArguments)
  expect(defineTask).type.not.toBeCallableWith('task', 5)
})

interface Picture { name: string, bytes: Uint8Array }

const thumbnail = defineTask<Picture, { width: number }>('thumbnail', new URL('file:///thumbnail.js'), {
  local: true,
  attempts: 2,
  transfer: picture => {
    expect(picture).type.toBe<Picture>()
    return [picture.bytes, picture.bytes.buffer]
  }
})
const tidy = defineTask('tidy', '/srv/tidy.js')

test('a task that is defined by its file has its payload and result from type parameters, and returns a promise', () => {
  expect(thumbnail).type.toBe<TaskDefinition<Picture, Promise<{ width: number }>>>()
  expect(tidy).type.toBe<TaskDefinition<undefined, Promise<unknown>>>()
  expect(tasks.add).type.toBeCallableWith(thumbnail, { name: 'a.png', bytes: new Uint8Array() })
  expect(tasks.add).type.toBeCallableWith({ timeout: 5 }, thumbnail, { name: 'a.png', bytes: new Uint8Array() })
  expect(tasks.add).type.not.toBeCallableWith(thumbnail)
  expect(tasks.add).type.not.toBeCallableWith(thumbnail, { name: 'a.png' })
  expect(tasks.add).type.toBeCallableWith(tidy)
  expect(tasks.add).type.not.toBeCallableWith(tidy, 1)
  expect(thumbnail({ name: 'a.png', bytes: new Uint8Array() })).type.toBe<Promise<{ width: number }>>()
})

test('only such a task has `transfer`, and it returns buffers', () => {
  expect(defineTask).type.not.toBeCallableWith('task', noArguments, { transfer: () => [] })
  expect(defineTask).type.not.toBeCallableWith('task', '/srv/task.js', { transfer: () => ['text'] })
  expect(defineTask).type.not.toBeCallableWith('task', '/srv/task.js', { transfer: [] })
  expect(defineTask).type.not.toBeCallableWith('task', '/srv/task.js', { name: 'other' })
})

test('the pool of threads has options', () => {
  expect(app.register).type.toBeCallableWith(backgroundTasks, {
    tasks: [thumbnail, tidy],
    threads: { max: 2, idleTimeout: 1_000, maxQueue: 100, resourceLimits: { maxOldGenerationSizeMb: 256 } }
  })
  expect<BackgroundTasksOptions['threads']>().type.toBe<ThreadOptions | undefined>()
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { threads: { maxThreads: 2 } })
})

test('add takes a definition and its payload', () => {
  expect(tasks.add).type.toBeCallableWith(sendReceipt, { id: 1, items: ['book'] })
  expect(tasks.add).type.toBeCallableWith({ attempts: 5 }, sendReceipt, { id: 1, items: ['book'] })
  expect(tasks.add(sendReceipt, { id: 1, items: [] })).type.toBe<TaskHandle>()
  expect(tasks.add).type.not.toBeCallableWith(sendReceipt)
  expect(tasks.add).type.not.toBeCallableWith(sendReceipt, { id: '1', items: [] })
  expect(tasks.add).type.not.toBeCallableWith(sendReceipt, { id: 1, items: [] }, 2)
  expect(tasks.add).type.not.toBeCallableWith({ attempts: 5 }, sendReceipt)
  expect(tasks.add).type.not.toBeCallableWith({ attempts: 5 }, sendReceipt, { id: 1 })
  expect(tasks.add).type.not.toBeCallableWith({ signal: true }, sendReceipt, { id: 1, items: [] })
})

test('a definition without a payload is added alone, one with an optional one either way', () => {
  expect(tasks.add).type.toBeCallableWith(cleanUp)
  expect(tasks.add).type.toBeCallableWith({ delay: 5 }, cleanUp)
  expect(tasks.add).type.not.toBeCallableWith(cleanUp, 1)
  expect(tasks.add).type.toBeCallableWith(greet)
  expect(tasks.add).type.toBeCallableWith(greet, 'Ada')
  expect(tasks.add).type.not.toBeCallableWith(greet, 1)
})

test('definitions of any payload go into the option `tasks`', () => {
  expect(app.register).type.toBeCallableWith(backgroundTasks, { tasks: [sendReceipt, cleanUp, greet] })
  expect<TaskDefinition<Order, Promise<number>>>().type.toBeAssignableTo<TaskDefinition>()
})

test('a handle tells and cancels', () => {
  const handle = tasks.add(noArguments)
  expect(handle.id).type.toBe<string>()
  expect(handle.name).type.toBe<string>()
  expect(handle.state).type.toBe<TaskState>()
  expect(handle.cancel()).type.toBe<Promise<boolean>>()
  expect(handle.settled()).type.toBe<Promise<TaskState>>()
  expect<TaskState>().type.toBe<
    'collecting' | 'pending' | 'running' | 'completed' | 'failed' | 'dropped' | 'cancelled' | 'replaced' | 'captured' | 'stored'
  >()
})

test('the collector releases, the application\'s door tells', () => {
  expect(tasks.release()).type.toBe<void>()
  expect(app.backgroundTasks.add).type.toBe(tasks.add)
  expect(app.backgroundTasks.add).type.toBeCallableWith(oneArgument, 'ada@example.com')
  expect(app.backgroundTasks.add).type.not.toBeCallableWith(oneArgument, 1)
  expect(app.backgroundTasks.idle()).type.toBe<Promise<void>>()
  expect(app.backgroundTasks.stats()).type.toBe<Stats>()
  expect(app.backgroundTasks.stats().completed).type.toBe<number>()
  expect(app.backgroundTasks.find('id')).type.toBe<Promise<TaskInfo | null>>()
  expect(app.backgroundTasks.captured).type.toBe<CapturedTask[]>()
  expect(app.backgroundTasks.current.add).type.toBe(tasks.add)
  expect(app.backgroundTasks).type.not.toHaveProperty('release')
})

test('a context has what a task needs, and no scope where awilix is not in use', () => {
  expect<TaskContext['id']>().type.toBe<string>()
  expect<TaskContext['attempt']>().type.toBe<number>()
  expect<TaskContext['signal']>().type.toBe<AbortSignal>()
  expect<TaskContext['requestId']>().type.toBe<string | null>()
  expect<TaskContext['diScope']>().type.toBe<undefined>()
  expect<TaskContext['progress']>().type.toBe<(value: unknown) => void>()
})

test('addInTransaction takes a client, and a defined task with its payload', () => {
  const receipt = defineTask('receipt', async (payload: { order: string }) => payload.order)
  const ping = defineTask('ping', async () => {})
  const pool = new Pool()
  for (const collector of [tasks, app.backgroundTasks, app.backgroundTasks.current]) {
    expect(collector.addInTransaction(pool, receipt, { order: '1' })).type.toBe<Promise<TaskHandle>>()
    expect(collector.addInTransaction).type.toBeCallableWith(pool, { delay: 1, dedupe: 'a', attempts: 2 }, receipt, { order: '1' })
    expect(collector.addInTransaction).type.toBeCallableWith(pool, ping)
    expect(collector.addInTransaction).type.toBeCallableWith(pool, { name: 'a' }, ping)
  }
  expect(tasks.addInTransaction).type.not.toBeCallableWith(receipt, { order: '1' })
  expect(tasks.addInTransaction).type.not.toBeCallableWith(pool, receipt)
  expect(tasks.addInTransaction).type.not.toBeCallableWith(pool, receipt, { order: 1 })
  expect(tasks.addInTransaction).type.not.toBeCallableWith(pool, oneArgument, 'a')
  for (const option of [{ runOn: 'always' as const }, { key: 'a' }, { signal: true }, { atempts: 1 }]) {
    expect(tasks.addInTransaction).type.not.toBeCallableWith(pool, option, ping)
  }
  expect<TransactionTaskOptions>().type.not.toBeAssignableFrom<{ runOn: 'success' }>()
})

test('clients of databases', () => {
  expect<TransactionClient>().type.toBeAssignableFrom<PoolClient>()
  expect<TransactionClient>().type.toBeAssignableFrom<Client>()
  expect<TransactionClient>().type.toBeAssignableFrom<DatabaseSync>()
  expect<TransactionClient>().type.toBeAssignableFrom((text: string, values: unknown[]) => transaction.executeQuery(CompiledQuery.raw(text, values)))
  expect<TransactionClient>().type.toBeAssignableFrom(async (text: string, [value]: unknown[]) => [{ id: text + value }])
  expect(tasks.addInTransaction((text, values) => prisma.$queryRawUnsafe(text, ...values), defineTask('ping', () => {}))).type.toBe<Promise<TaskHandle>>()
  expect<TransactionClient>().type.not.toBeAssignableFrom<string>()
  expect<TransactionClient>().type.not.toBeAssignableFrom<{ query (): void }>()
})

test('a schedule has a task and its payload; what is listed has dates', () => {
  const cleanUp = defineTask('clean-up', async (_payload: { days: number }) => {})
  expect(app.register).type.toBeCallableWith(backgroundTasks, { schedules: { nightly: { task: cleanUp, cron: '0 3 * * *', timezone: 'UTC', payload: { days: 30 }, overlap: true } } })
  expect(app.register).type.toBeCallableWith(backgroundTasks, { schedules: { hourly: { task: cleanUp, every: 3_600_000 } } })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { schedules: { hourly: { task: cleanUp, every: '1h' } } })
  expect(app.register).type.not.toBeCallableWith(backgroundTasks, { schedules: { hourly: { every: 1_000 } } })
  expect<Schedule<{ days: number }>>().type.toBeAssignableFrom({ task: cleanUp, every: 1_000, payload: { days: 1 } })
  expect<Schedule<{ days: number }>>().type.not.toBeAssignableFrom({ task: cleanUp, every: 1_000, payload: { days: '1' } })
  expect(app.backgroundTasks.schedules()).type.toBe<Promise<ScheduleInfo[]>>()
  expect<ScheduleInfo['next']>().type.toBe<Date | null>()
  expect(app.backgroundTasks.runSchedule('nightly')).type.toBe<Promise<TaskHandle | null>>()
})
