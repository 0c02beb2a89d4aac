import Fastify from 'fastify'
import { test } from 'tap'
import backgroundTasks, { defineTask, errorCodes } from '../index'
import { takeSnapshot } from '../lib/task/snapshot'
import { createApp, settled } from './support/server'

const noop = () => {}

test('add refuses a value that cannot run, at the call, and names the value', async t => {
  const { app } = await createApp(t)
  app.get('/', async request => {
    const add = (...args: unknown[]) => (request.backgroundTasks.add as (...args: unknown[]) => unknown).call(request.backgroundTasks, ...args)
    for (const [args, code, received] of [
      [[], 'FST_BGT_INVALID_TASK', 'received undefined'],
      [[null], 'FST_BGT_INVALID_TASK', 'received null'],
      [['send-mail'], 'FST_BGT_INVALID_TASK', "received 'send-mail'"],
      [[42, noop], 'FST_BGT_INVALID_TASK', 'received 42'],
      [[Promise.resolve(1)], 'FST_BGT_INVALID_TASK', 'received a promise'],
      [[Promise.resolve(1), noop], 'FST_BGT_INVALID_TASK', 'received a promise'],
      [[{}, Promise.resolve(1)], 'FST_BGT_INVALID_TASK', 'received a promise'],
      [[{ then () {} }], 'FST_BGT_INVALID_TASK', 'received a promise'],
      [[[], noop], 'FST_BGT_INVALID_TASK', 'received []'],
      [[new Map(), noop], 'FST_BGT_INVALID_TASK', 'received Map(0) {}'],
      [[Object.create({ attempts: 3 }), noop], 'FST_BGT_INVALID_TASK', 'received'],
      [[function * generator () {}], 'FST_BGT_INVALID_TASK', 'received [GeneratorFunction: generator]'],
      [[{}, async function * generator () {}], 'FST_BGT_INVALID_TASK', 'received [AsyncGeneratorFunction: generator]'],
      [[{}], 'FST_BGT_INVALID_TASK', 'received undefined'],
      [[{}, 'x'], 'FST_BGT_INVALID_TASK', "received 'x'"],
      [[{ name: '' }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'name' must be a non-empty string of at most 1024 bytes in UTF-8, without NUL or half of a character, received ''"],
      [[{ name: 1 }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'name' must be a non-empty string of at most 1024 bytes in UTF-8, without NUL or half of a character, received 1"],
      [[{ runOn: 'error' }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'runOn' must be 'success', 'failure', 'always' or a function, received 'error'"],
      [[{ timeout: -1 }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'timeout' must be a number of milliseconds from 0 to 2147483647, received -1"],
      [[{ timeout: '5s' }, noop], 'FST_BGT_INVALID_TASK_OPTION', "received '5s'"],
      [[{ delay: Infinity }, noop], 'FST_BGT_INVALID_TASK_OPTION', 'received Infinity'],
      [[{ delay: NaN }, noop], 'FST_BGT_INVALID_TASK_OPTION', 'received NaN'],
      [[{ attempts: 0 }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'attempts' must be a whole number from 1 to 2147483647, received 0"],
      [[{ attempts: 1.5 }, noop], 'FST_BGT_INVALID_TASK_OPTION', 'received 1.5'],
      [[{ backoff: 'fast' }, noop], 'FST_BGT_INVALID_TASK_OPTION', "received 'fast'"],
      [[{ backoff: null }, noop], 'FST_BGT_INVALID_TASK_OPTION', 'received null'],
      [[{ backoff: { type: 'linear', delay: 1 } }, noop], 'FST_BGT_INVALID_TASK_OPTION', "received { type: 'linear', delay: 1 }"],
      [[{ backoff: { type: 'fixed' } }, noop], 'FST_BGT_INVALID_TASK_OPTION', "received { type: 'fixed' }"],
      [[{ backoff: { type: 'fixed', delay: 1, jitter: 2 } }, noop], 'FST_BGT_INVALID_TASK_OPTION', 'jitter: 2'],
      [[{ backoff: { type: 'fixed', delay: 1, factor: 2 } }, noop], 'FST_BGT_INVALID_TASK_OPTION', 'factor: 2'],
      [[{ dedupe: 'a\0' }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'dedupe' must be a non-empty string of at most 1024 bytes in UTF-8, without NUL or half of a character, and not with '$schedule:' at its beginning, received 'a\\x00'"],
      [[{ attempts: 2 ** 31 }, noop], 'FST_BGT_INVALID_TASK_OPTION', 'received 2147483648'],
      [[{ dedupe: 'x'.repeat(1_025) }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'dedupe' must be"],
      [[{ dedupe: 'ä'.repeat(513) }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'dedupe' must be"],
      [[{ key: '字'.repeat(342) }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'key' must be"],
      [[{ name: 'x'.repeat(2_000) }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'name' must be"],
      [[{ dedupe: '\ud800' }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'dedupe' must be"],
      [[{ key: 7 }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'key' must be a non-empty string of at most 1024 bytes in UTF-8, without NUL or half of a character, received 7"],
      [[{ signal: 'yes' }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'signal' must be a boolean, received 'yes'"],
      [[{ retries: 3 }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'retries' must be one of name, runOn, timeout, attempts, backoff, delay, key, dedupe, signal, received 3"],
      [[{ toString: 3 }, noop], 'FST_BGT_INVALID_TASK_OPTION', "'toString'"]
    ] as const) {
      try {
        add(...args)
        t.fail(`${received} was accepted`)
      } catch (error) {
        t.match(error, { code }, received)
        t.match((error as Error).message, received)
        t.type(error, TypeError)
      }
    }
    return 'x'
  })
  t.equal((await app.inject('/')).body, 'x')
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('the message about a promise says what to write instead', async t => {
  const { app } = await createApp(t)
  const sendMail = async (_to: string) => {}
  t.throws(() => app.backgroundTasks.add(sendMail('ada@example.com') as never), {
    message: 'A background task must be a function or a defined task, received a promise: pass the function without calling it, as in add(fn, ...args)'
  })
  t.throws(() => defineTask('send-mail', sendMail('ada@example.com') as never), { code: 'FST_BGT_INVALID_TASK', message: /received a promise/ })
})

test('a promise that is refused, and rejects, does not end the process', async t => {
  const task = defineTask('task', async (_payload: unknown) => {})
  const { app } = await createApp(t, { tasks: [task] })
  const unhandled: unknown[] = []
  const listener = (reason: unknown) => { unhandled.push(reason) }
  process.on('unhandledRejection', listener)
  t.teardown(() => process.off('unhandledRejection', listener))
  t.throws(() => app.backgroundTasks.add(Promise.reject(new Error('no mail today')) as never), { code: 'FST_BGT_INVALID_TASK' })
  t.throws(() => app.backgroundTasks.add(task, Promise.reject(new Error('no payload'))), { code: 'FST_BGT_INVALID_PAYLOAD' })
  t.throws(() => app.backgroundTasks.add(task, { members: [Promise.reject(new Error('no member'))] }), { code: 'FST_BGT_INVALID_PAYLOAD' })
  t.throws(() => takeSnapshot('task', Promise.reject(new Error('no clone')), null), { code: 'FST_BGT_UNCLONABLE' })
  await new Promise(resolve => { setImmediate(resolve) })
  t.same(unhandled, [])
})

test('the application\'s add refuses the same', async t => {
  const { app } = await createApp(t)
  t.throws(() => app.backgroundTasks.add('x' as never), { code: 'FST_BGT_INVALID_TASK' })
  t.throws(() => app.backgroundTasks.add({ attempts: -1 }, noop), { code: 'FST_BGT_INVALID_TASK_OPTION' })
})

test('an undefined option has its default', async t => {
  const { app } = await createApp(t, { onError: undefined, closeTimeout: undefined } as never)
  app.backgroundTasks.add({ name: undefined, attempts: undefined, backoff: undefined } as never, noop)
  await settled(app, { completed: 1 })
})

test('a refusal in a handler is answered like any error, with its code', async t => {
  const { app } = await createApp(t)
  app.get('/', async request => request.backgroundTasks.add('x' as never))
  const response = await app.inject('/')
  t.equal(response.statusCode, 500)
  t.match(response.json(), { code: 'FST_BGT_INVALID_TASK' })
})

for (const [options, code, message] of [
  [{ concurency: 5 }, 'FST_BGT_UNKNOWN_OPTION', /'concurency'; the options are .*concurrency/],
  [{ concurrency: 0 }, 'FST_BGT_INVALID_OPTION', /'concurrency' must be a whole number from 1 on, or Infinity, received 0/],
  [{ maxPending: '10' }, 'FST_BGT_INVALID_OPTION', /'maxPending' .* received '10'/],
  [{ abortGrace: -1 }, 'FST_BGT_INVALID_OPTION', /'abortGrace' .* received -1/],
  [{ closeTimeout: Infinity }, 'FST_BGT_INVALID_OPTION', /'closeTimeout' .* received Infinity/],
  [{ onFailure: 'halt' }, 'FST_BGT_INVALID_OPTION', /'onFailure' must be 'continue' or 'stop', received 'halt'/],
  [{ onError: 'log' }, 'FST_BGT_INVALID_OPTION', /'onError' must be a function, received 'log'/],
  [{ outcome: 'failure' }, 'FST_BGT_INVALID_OPTION', /'outcome' must be a function, received 'failure'/],
  [{ mode: 'test' }, 'FST_BGT_INVALID_OPTION', /'mode' must be 'run' or 'capture', received 'test'/],
  [{ asyncContext: 1 }, 'FST_BGT_INVALID_OPTION', /'asyncContext' must be a boolean, received 1/],
  [{ disposeScopes: null }, 'FST_BGT_INVALID_OPTION', /'disposeScopes' must be a boolean, received null/],
  [{ worker: true }, 'FST_BGT_INVALID_OPTION', /'worker' must be false or \{ concurrency: a whole number from 1 on }, received true/],
  [{ worker: { concurrency: 0 } }, 'FST_BGT_INVALID_OPTION', /'worker' .* received \{ concurrency: 0 }/],
  [{ backend: {} }, 'FST_BGT_INVALID_OPTION', /'backend' must be a backend, .* received an object/],
  [{ tasks: {} }, 'FST_BGT_INVALID_OPTION', /'tasks' must be an array of defined tasks, received {}/],
  [{ tasks: [noop] }, 'FST_BGT_INVALID_OPTION', /'tasks' must be an array of defined tasks, received \[ \[Function: noop\] \]/],
  [{ tasks: [defineTask('same', noop), defineTask('same', noop)] }, 'FST_BGT_DUPLICATE_TASK', /two definitions with the name 'same'/]
] as Array<[object, string, RegExp]>) {
  test(`registration refuses ${JSON.stringify(options)}`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await t.rejects(async () => app.register(backgroundTasks, options), { code, message })
  })
}

test('the options that Fastify reads of every plugin are let through', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(backgroundTasks, { prefix: '/x', logLevel: 'warn' } as never)
  t.ok(app.backgroundTasks)
})

test('registering twice is refused, in the same context and in one inside; siblings may each register', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(backgroundTasks)
  await t.rejects(async () => app.register(backgroundTasks), { code: 'FST_BGT_ALREADY_REGISTERED' })
  const inside = Fastify()
  t.teardown(() => inside.close())
  await inside.register(backgroundTasks)
  inside.register(async child => { await child.register(backgroundTasks) })
  await t.rejects(async () => inside.ready(), { code: 'FST_BGT_ALREADY_REGISTERED' })
})

test('every error has a code that is its name, and a message that says what was received', async t => {
  for (const [name, FastifyError] of Object.entries(errorCodes)) {
    const error = new FastifyError('one', 'two', 'three')
    t.equal(error.code, name)
    t.match(name, /^FST_BGT_[A-Z_]+$/)
  }
  t.equal(new errorCodes.FST_BGT_OVERLOADED().statusCode, 503)
  t.equal(new errorCodes.FST_BGT_CLOSED().statusCode, 503)
})
