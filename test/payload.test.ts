import { inspect } from 'node:util'
import { runInNewContext } from 'node:vm'
import { test } from 'tap'
import { defineTask } from '../index'
import { createApp } from './support/server'

const task = defineTask('task', async (payload: unknown) => payload)

test('a value that JSON would change is refused at add, with its path', async t => {
  const { app } = await createApp(t, { tasks: [task] })
  const cycle: Record<string, unknown> = { name: 'a' }
  cycle.list = [{ back: cycle }]
  class Point { x = 1 }
  let deep: unknown = 1
  for (let i = 0; i < 100_000; i++) deep = [deep]
  for (const [payload, path, received] of [
    [{ at: new Date(0) }, 'payload.at', '1970-01-01T00:00:00.000Z'],
    [{ map: new Map([['a', 1]]) }, 'payload.map', "Map(1) { 'a' => 1 }"],
    [new Set([1]), 'payload', 'Set(1) { 1 }'],
    [{ a: undefined }, 'payload.a', 'undefined'],
    [[1, undefined], 'payload[1]', 'undefined'],
    [[1, , 3], 'payload[1]', 'undefined'], // eslint-disable-line no-sparse-arrays -- the hole is what is tested
    [{ n: 1n }, 'payload.n', '1n'],
    [{ n: NaN }, 'payload.n', 'NaN'],
    [-Infinity, 'payload', '-Infinity'],
    [{ deep: { er: [{ point: new Point() }] } }, 'payload.deep.er[0].point', 'Point { x: 1 }'],
    [{ 'a-b': { f () {} } }, 'payload["a-b"].f', '[Function: f]'],
    [{ s: Symbol('s') }, 'payload.s', 'Symbol(s)'],
    // Versions of Node differ in how they write it.
    [{ [Symbol('key')]: 1 }, 'payload', inspect({ [Symbol('key')]: 1 })],
    [{ toJSON: () => 1 }, 'payload', '{ toJSON: [Function: toJSON] }'],
    [Object.assign([1], { extra: 1 }), 'payload', '[ 1, extra: 1 ]'],
    [Buffer.from('a'), 'payload', '<Buffer 61>'],
    [{ err: new TypeError('boom') }, 'payload.err', 'TypeError: boom'],
    [cycle, 'payload.list[0].back', 'a cycle'],
    [{ n: -0 }, 'payload.n', '-0'],
    [{ list: new (class List extends Array {})() }, 'payload.list', 'List(0) []'],
    [Object.create(Object.create(null)), 'payload', 'Object <[Object: null prototype] {}> {}'],
    [Object.defineProperty({}, 'hidden', { value: 1 }), 'payload.hidden', 'a hidden or computed property'],
    [{ get computed () { return 1 } }, 'payload.computed', 'a hidden or computed property'],
    [new Proxy({}, { getPrototypeOf () { throw new Error('no') } }), 'payload', 'what cannot be read (no)'],
    [deep, 'payload', 'what cannot be read (Maximum call stack size exceeded)']
  ] as Array<[unknown, string, string]>) {
    try {
      app.backgroundTasks.add(task, payload)
      t.fail(`${received} was accepted`)
    } catch (error) {
      t.match(error, { code: 'FST_BGT_INVALID_PAYLOAD' })
      const expected = `The payload of the background task 'task' must be plain JSON: ${path} received ${received}`
      t.equal((error as Error).message.slice(0, expected.length), expected)
      t.notMatch((error as Error).message, '\n')
    }
  }
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('a value that JSON keeps comes out unchanged', async t => {
  const { app } = await createApp(t, { tasks: [task] })
  const shared = { a: 1 }
  for (const payload of [
    undefined, null, true, 0, 1.5, '', 'text', [], {}, [[]], { a: { b: [1, 'x', null, false] } },
    [shared, shared], Object.create(null), runInNewContext('({ from: ["another realm"] })'), JSON.parse('{"__proto__": 1}')
  ]) {
    const handle = app.backgroundTasks.add(task, payload)
    const { id } = handle
    await handle.settled()
    t.strictSame(JSON.stringify((await app.backgroundTasks.find(id))?.result), JSON.stringify(payload))
  }
})

test('a payload that is too large is refused at add, and the largest one is not', async t => {
  const { app } = await createApp(t, { tasks: [task] })
  const text = 'x'.repeat(2 ** 24 - 2)
  t.equal(await app.backgroundTasks.add(task, text).settled(), 'completed')
  t.throws(() => app.backgroundTasks.add(task, `${text}x`), {
    code: 'FST_BGT_PAYLOAD_TOO_LARGE',
    message: /'task' must be at most 16777216 characters of JSON, received 16777217/
  })
})

test('the time to check a payload grows with its size, not with its depth', async t => {
  const { app } = await createApp(t, { tasks: [task] })
  const list = Array.from({ length: 50_000 }, () => [])
  let deep: unknown = list
  for (let i = 0; i < 2_000; i++) deep = [deep]
  const msToAdd = (payload: unknown) => {
    const begin = performance.now()
    app.backgroundTasks.add({ delay: 60_000 }, task, payload)
    return performance.now() - begin
  }
  const ratios = Array.from({ length: 11 }, () => {
    const flat = msToAdd(list)
    return msToAdd(deep) / flat
  }).sort((a, b) => a - b)
  t.ok(ratios[5]! < 3, `the same list 2,000 deep takes ${ratios[5]!.toFixed(1)} times as long`)
})

test('a cycle is found however deep it begins', async t => {
  const { app } = await createApp(t, { tasks: [task] })
  for (const [above, within] of [[0, 0], [0, 40], [40, 0], [40, 40], [14, 1], [15, 1], [16, 1]] as const) {
    const cycle: Record<string, unknown> = {}
    let inner = cycle
    for (let i = 0; i < within; i++) inner = inner.in = {} as Record<string, unknown>
    inner.back = cycle
    let payload: unknown = cycle
    // An object that the walk has left is no parent any more.
    const shared = {}
    for (let i = 0; i < above; i++) payload = [shared, [shared], payload]
    t.throws(() => app.backgroundTasks.add(task, payload), { code: 'FST_BGT_INVALID_PAYLOAD', message: `payload${'[2]'.repeat(above)}${'.in'.repeat(within)}.back received a cycle` }, `${above} + ${within}`)
  }
})
