import Fastify from 'fastify'
import { inspect } from 'node:util'
import { test } from 'tap'
import backgroundTasks, { defineTask } from '../index'
import { sqlite } from '../lib/backends/sqlite'
import { bullmq } from '../lib/backends/bullmq'
import { dashboard } from '../lib/dashboard'
import { isError, received, textOf } from '../lib/shared/show'
import { createApp } from './support/server'

/* Whatever stands in place of an option, a task or a payload, the refusal has a code and says which it was; and says so soon. */

function revoked<T extends object> (target: T): T {
  const { proxy, revoke } = Proxy.revocable(target, {})
  revoke()
  return proxy
}

const no = (): never => { throw new Error('no') }
const HANDLER = { get: no, has: no, ownKeys: no, getPrototypeOf: no, getOwnPropertyDescriptor: no }

/** Values that throw when they are looked at. */
const hostile = (): unknown[] => [
  revoked({}),
  revoked([]),
  revoked(() => {}),
  new Proxy({}, HANDLER),
  new Proxy([], HANDLER),
  { get type () { return no() }, get concurrency () { return no() }, get max () { return no() }, get store () { return no() }, get then () { return no() } },
  { [inspect.custom]: no },
  { get [Symbol.toStringTag] () { return no() } },
  Object.assign(() => {}, { [inspect.custom]: no }),
  Object.assign(new Error('x'), { [inspect.custom]: no })
]

/** An object with one member that throws when it is read. */
const throwing = (name: string) => Object.defineProperty({}, name, { enumerable: true, get: no })

test('an option of the plugin', async t => {
  for (const name of ['tasks', 'onFailure', 'onError', 'concurrency', 'backend', 'worker', 'threads', 'mode', 'outcome']) {
    let accepted = 0
    for (const value of [...hostile(), undefined]) {
      const app = Fastify()
      t.teardown(() => app.close())
      const options = value === undefined ? throwing(name) : { [name]: value }
      const error = await app.register(backgroundTasks, options).then(() => null, error => error)
      // Functions are functions, and what has hidden members alone is an object without members.
      if (error === null) accepted++
      else t.match(error, { code: 'FST_BGT_INVALID_OPTION', message: `'${name}'` })
    }
    t.ok(accepted <= ({ onError: 2, outcome: 2, worker: 3, threads: 3 }[name] ?? 0), `${name}: ${accepted} accepted`)
  }
})

test('an option of the dashboard, and of the backends', async t => {
  for (const value of hostile().filter(value => typeof value !== 'function')) {
    const { app } = await createApp(t)
    await t.rejects(async () => app.register(dashboard, { preHandler: value as never, prefix: '/x' }), { code: 'FST_BGT_INVALID_OPTION' })
    t.throws(() => sqlite({ file: value as never }), { code: 'FST_BGT_INVALID_OPTION' })
    t.throws(() => bullmq({ connection: 'redis://x', queue: value as never }), { code: 'FST_BGT_INVALID_OPTION' })
  }
  const { app } = await createApp(t)
  await t.rejects(async () => app.register(dashboard, throwing('payload')), { code: 'FST_BGT_INVALID_OPTION', message: /'payload'.*what cannot be read \(no\)/ })
  t.throws(() => sqlite(throwing('file') as never), { code: 'FST_BGT_INVALID_OPTION', message: /'file'.*what cannot be read \(no\)/ })
  t.throws(() => bullmq(throwing('connection') as never), { code: 'FST_BGT_INVALID_OPTION', message: /'connection'.*what cannot be read \(no\)/ })
})

test('an option of a task, and all of them', async t => {
  const { app } = await createApp(t)
  const noop = () => {}
  for (const name of ['name', 'runOn', 'timeout', 'attempts', 'backoff', 'delay', 'key', 'dedupe', 'signal']) {
    for (const value of hostile()) {
      if (name === 'runOn' && typeof value === 'function') continue
      t.throws(() => app.backgroundTasks.add({ [name]: value } as never, noop), { code: 'FST_BGT_INVALID_TASK_OPTION', message: `'${name}'` }, name)
      if (['name', 'dedupe', 'signal'].includes(name)) continue
      t.throws(() => defineTask('x', noop, { [name]: value }), { code: 'FST_BGT_INVALID_TASK_OPTION', message: `'${name}'` }, name)
    }
    t.throws(() => app.backgroundTasks.add(throwing(name) as never, noop), { code: 'FST_BGT_INVALID_TASK_OPTION', message: `'${name}'` }, name)
  }
  for (const name of ['local', 'transfer', 'timeout']) {
    t.throws(() => defineTask('x', noop, throwing(name)), { code: 'FST_BGT_INVALID_TASK_OPTION', message: `'${name}'` }, name)
  }
  for (const value of [revoked({}), new Proxy({}, HANDLER)]) {
    t.throws(() => defineTask('x', value as never), { code: 'FST_BGT_INVALID_TASK' })
    t.throws(() => app.backgroundTasks.add(value as never, noop), { code: 'FST_BGT_INVALID_TASK' })
    t.throws(() => defineTask('x', noop, value as never), { code: 'FST_BGT_INVALID_TASK_OPTION', message: "'options'" })
  }
  for (const value of [revoked(noop), new Proxy(noop, HANDLER)]) t.throws(() => defineTask('x', value as never), { code: 'FST_BGT_INVALID_TASK' })
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('a backoff is what it was when it was checked', async t => {
  const { app } = await createApp(t)
  let reads = 0
  const backoff = { type: 'fixed', get delay () { return reads++ === 0 ? 1 : NaN } }
  let runs = 0
  const handle = app.backgroundTasks.add({ attempts: 2, backoff: backoff as never }, () => { if (++runs === 1) throw new Error('once') })
  t.equal(await handle.settled(), 'completed')
  t.equal(reads, 1)
})

test('what is added in place of a function', async t => {
  const { app } = await createApp(t)
  for (const value of hostile().filter(value => typeof value !== 'function' || inspect(value, { customInspect: false }) === '<Revoked Proxy>')) {
    t.throws(() => app.backgroundTasks.add(value as never), { code: 'FST_BGT_INVALID_TASK' })
    t.throws(() => app.backgroundTasks.add({}, value as never), { code: 'FST_BGT_INVALID_TASK' })
    if (typeof value !== 'function') t.throws(() => defineTask('x', value as never, {}), { code: 'FST_BGT_INVALID_TASK' })
    t.throws(() => defineTask(value as never, () => {}), { code: 'FST_BGT_INVALID_TASK_OPTION' })
  }
  t.throws(() => app.backgroundTasks.add(Object.defineProperty(() => {}, Symbol.toStringTag, { get: no })), { code: 'FST_BGT_INVALID_TASK' })
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('a payload', async t => {
  const task = defineTask('task', async (_payload: unknown) => {})
  const { app } = await createApp(t, { tasks: [task] })
  for (const value of hostile()) {
    t.throws(() => app.backgroundTasks.add(task, value), { code: 'FST_BGT_INVALID_PAYLOAD' })
    t.throws(() => app.backgroundTasks.add(task, { a: [value] }), { code: 'FST_BGT_INVALID_PAYLOAD' })
  }
  for (const thrown of [null, undefined, 'text', Object.create(null), revoked({}), Object.defineProperty(new Error('x'), 'message', { get: no })]) {
    const payload = new Proxy({}, { getPrototypeOf () { throw thrown } })
    t.throws(() => app.backgroundTasks.add(task, payload), { code: 'FST_BGT_INVALID_PAYLOAD' })
  }
})

test('a value of 100,000 members is shown about as soon as its members have been counted', async t => {
  const member = Object.fromEntries(Array.from({ length: 15 }, (_, i) => [`member${i}`, `value ${i}`]))
  const wide: Record<string, unknown> = {}
  for (let i = 0; i < 100_000; i++) wide[`key${i}`] = member
  for (const [value, expected] of [
    [wide, '{ key0: [Object], key1: [Object]'], [{ wide }, '{ wide: [Object] }'], [[wide], '[ [Object] ]'], [new Map([['wide', wide]]), "Map(1) { 'wide' => [Object] }"],
    [new Set([wide]), 'Set(1) { [Object] }'], [new Proxy(wide, {}), '[Object]'], [Object.assign(() => {}, wide), 'Function { key0: [Object]']
  ] as const) {
    t.match(received(value), expected)
  }
  const msOf = (run: () => void) => {
    const begin = performance.now()
    run()
    return performance.now() - begin
  }
  const ratios = Array.from({ length: 5 }, () => {
    const counted = msOf(() => Object.keys(wide))
    return msOf(() => received(wide)) / counted
  }).sort((a, b) => a - b)
  t.ok(ratios[2]! < 10, `${ratios[2]!.toFixed(1)} times as long as counting`)
})

test('what is shown is short, and on one line', async t => {
  for (const value of [{ text: 'x'.repeat(1e6) }, 'x'.repeat(1e6), [...Array(1e5).keys()], new Map([[{ a: 'x'.repeat(1e6) }, new Set(Array(1e5).keys())]]), { ['k'.repeat(1e6)]: 1 }, { ['a://'.repeat(2.5e5)]: 1 }, new Uint8Array(1e6), Object.assign([1], { a: { b: 1 } }), new Error('x\ny', { cause: new Error('z') })]) {
    t.ok(received(value).length <= 120)
    t.notMatch(received(value), '\n')
  }
  t.equal(textOf(new Error('message')), 'message')
  t.equal(textOf(7), '7')
})

test('a revoked proxy is no error', t => {
  t.equal(isError(revoked(new Error('no'))), false)
  t.end()
})

test('of a collection the first members are shown', t => {
  const members = Array.from({ length: 1_000 }, (_, n) => n)
  t.match(received(new Set(members)), /^Set\(1000\) \{ 0, 1, /)
  t.match(received(new Map(members.map(n => [n, n]))), /^Map\(1000\) \{ 0 => 0, /)
  t.equal(received(new Set([1])), 'Set(1) { 1 }')
  t.end()
})
